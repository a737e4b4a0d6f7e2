"""A card or a node on which unlike runs fail is put aside, tried again, and trusted when mended."""

import dataclasses
from typing import Any

import pytest

from orchestrator.messages import GangFailed, PlaceMended
from orchestrator.schedule.health import ASIDE_SECONDS, MAX_TIMES
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Cause, DeviceKind, NodeId, PendingReason, RetryBudget, RunId, RunSpec
from tests.schedule.test_scheduler import LARGE, SMALL, Desk
from tests.strategies import make_spec

PATIENT = RetryBudget(device_faults=1000, hangs=1000, losses_without_progress=1000)


@pytest.fixture
def desk() -> Desk:
    """One node with two cards of a kind; the first is taken first."""
    made = Desk()
    made.node("a", LARGE, LARGE)
    return made


def run(name: str, project: str = "p", gib: float | None = 4, **how: Any) -> RunSpec:
    spec = make_spec(name, gib=gib, retry=PATIENT, **how)
    return dataclasses.replace(spec, project=project)


def strike(desk: Desk, cause: Cause, *runs: RunSpec) -> None:
    """Each run is submitted, fails where it is, and is cancelled."""
    for spec in runs:
        desk.submit(spec)
        assert desk.running([spec.run_id]), f"{spec.run_id} waits"
        desk.fail(spec.run_id, cause)
        desk.cancel(spec.run_id, now=True)
        if desk.running([spec.run_id]):  # it was started again at once
            desk.fail(spec.run_id, Cause.KILLED)


def where(desk: Desk, name: str) -> list[tuple[str, int | None]]:
    desk.submit(run(name))
    return desk.where(name)


def test_two_runs_of_different_projects_with_faults_of_the_card_are_enough(desk: Desk) -> None:
    strike(desk, Cause.DEVICE_FAULT, run("x", "one"), run("y", "two"))
    assert where(desk, "z") == [("a", 1)]


def test_two_runs_of_one_project_are_not(desk: Desk) -> None:
    strike(desk, Cause.DEVICE_FAULT, run("x", "one"), run("y", "one"))
    assert where(desk, "z") == [("a", 0)]


@pytest.mark.parametrize("cause", [Cause.WORKER_LOST, Cause.START_FAILED, Cause.HANG])
def test_three_runs_are_enough_whatever_they_are(desk: Desk, cause: Cause) -> None:
    strike(desk, cause, run("x"), run("y"), run("z"))
    assert where(desk, "w") == [("a", 1)]


def test_processes_that_die_in_two_projects_have_many_reasons(desk: Desk) -> None:
    strike(desk, Cause.WORKER_LOST, run("x", "one"), run("y", "two"))
    assert where(desk, "z") == [("a", 0)]


@pytest.mark.parametrize(
    "cause", [Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.NAN_LOSS, Cause.DATA_ERROR]
)
def test_the_fault_of_a_project_is_not_the_card_s(desk: Desk, cause: Cause) -> None:
    strike(desk, cause, *(run(f"r{i}", f"p{i}") for i in range(6)))
    assert where(desk, "z") == [("a", 0)]


def test_one_run_that_fails_again_and_again_is_at_fault_itself(desk: Desk) -> None:
    desk.submit(run("x"))
    for _ in range(6):
        desk.fail("x", Cause.DEVICE_FAULT)
        desk.pass_time(300.0)
    assert where(desk, "z") == [("a", 0)]


def test_a_success_in_between_forgets_what_was_before(desk: Desk) -> None:
    strike(desk, Cause.DEVICE_FAULT, run("x", "one"))
    desk.submit(run("ok", epochs=1))
    desk.up("ok")
    desk.finish("ok")
    strike(desk, Cause.DEVICE_FAULT, run("y", "two"))
    assert where(desk, "z") == [("a", 0)]


def test_an_epoch_clears_lost_processes_but_not_faults_of_the_card(desk: Desk) -> None:
    def epoch(name: str) -> None:
        desk.submit(run(name, epochs=9))
        desk.up(name)
        desk.epoch(name)
        desk.cancel(name, now=True)
        desk.fail(name, Cause.KILLED)

    strike(desk, Cause.WORKER_LOST, run("x1"), run("y1"))
    epoch("ok1")
    strike(desk, Cause.WORKER_LOST, run("z1"))
    assert where(desk, "here") == [("a", 0)]
    desk.cancel("here", now=True)
    desk.fail("here", Cause.KILLED)
    strike(desk, Cause.DEVICE_FAULT, run("x2", "one"))
    epoch("ok2")
    strike(desk, Cause.DEVICE_FAULT, run("y2", "two"))
    assert where(desk, "there") == [("a", 1)]


def put_aside(desk: Desk, number: int = 0) -> None:
    runs = (run(f"x{number}", "one"), run(f"y{number}", "two"))
    strike(desk, Cause.DEVICE_FAULT, *runs)


def test_who_is_there_already_stays_and_nobody_comes(desk: Desk) -> None:
    desk.submit(run("stays", gib=10))
    desk.up("stays")
    put_aside(desk)
    assert desk.where("stays") == [("a", 0)]
    assert where(desk, "z") == [("a", 1)]


def test_after_a_time_it_takes_one_run_and_is_trusted_again_when_that_succeeds(desk: Desk) -> None:
    put_aside(desk)
    desk.submit(run("other", gib=23))
    desk.up("other")
    assert desk.where("other") == [("a", 1)]
    desk.submit(run("first"), run("second"))
    assert not desk.running(["first", "second"])
    assert desk.status("first").reason is PendingReason.SET_ASIDE
    assert desk.scheduler.next_wakeup == ASIDE_SECONDS
    desk.pass_time(ASIDE_SECONDS)
    assert desk.running(["first", "second"]) == ["first"]
    desk.up("first")
    desk.epoch("first")
    assert desk.running(["first", "second"]) == ["first", "second"]


def test_a_trial_that_fails_puts_it_aside_for_twice_as_long_and_in_the_end_for_ever(
    desk: Desk,
) -> None:
    put_aside(desk)
    desk.submit(run("other", gib=23))
    desk.up("other")
    seconds = ASIDE_SECONDS
    for number in range(1, MAX_TIMES):
        desk.submit(run(f"trial{number}"))
        desk.pass_time(seconds - 1.0)
        assert not desk.running([f"trial{number}"])
        desk.pass_time(1.0)
        assert desk.running([f"trial{number}"])
        desk.fail(f"trial{number}", Cause.HANG)
        desk.cancel(f"trial{number}")
        seconds *= 2
    desk.submit(run("patient"))
    desk.pass_time(100 * seconds)
    assert not desk.running(["patient"])
    told = desk.scheduler.explain(RunId("patient"), desk.world.now)
    assert told.reason is PendingReason.SET_ASIDE
    assert any("until a person says that it is mended" in line for line in told.blockers)
    desk.world.tell(PlaceMended(at=desk.world.now, node_id=NodeId("a"), card=0))
    assert desk.where("patient") == [("a", 0)]


def test_a_trial_that_fails_by_its_own_fault_tells_nothing_of_the_card(desk: Desk) -> None:
    put_aside(desk)
    desk.pass_time(ASIDE_SECONDS)
    desk.submit(run("wrong"))
    assert desk.where("wrong") == [("a", 0)]
    desk.fail("wrong", Cause.DATA_ERROR)
    assert where(desk, "next") == [("a", 0)]


def test_explain_names_the_runs_the_cause_and_when_it_is_tried_again(desk: Desk) -> None:
    put_aside(desk)
    desk.submit(run("other", gib=23), run("waits"))
    desk.up("other")
    desk.world.now += 60.0
    told = desk.scheduler.explain(RunId("waits"), desk.world.now)
    assert "a:0 was put aside after DEVICE_FAULT of x0, y0; tried again in 9 min" in told.blockers


def test_who_waits_already_is_told_anew_when_a_card_is_put_aside(desk: Desk) -> None:
    desk.submit(run("other", gib=23))
    strike(desk, Cause.DEVICE_FAULT, run("x", "one", gib=20))
    desk.submit(run("y", "two", gib=20), run("waits", gib=20))
    assert desk.status("waits").reason is PendingReason.WAITING_FOR_GPU
    failed = GangFailed(at=0.0, attempt=desk.attempt("y"), cause=Cause.DEVICE_FAULT)
    assert desk.scheduler.handle(failed) == ()
    told = {status.run_id: status.reason for status in desk.scheduler.drain_changes()}
    assert told[RunId("waits")] is PendingReason.SET_ASIDE


def test_the_last_card_is_never_put_aside() -> None:
    desk = Desk()
    desk.node("a", LARGE)
    put_aside(desk)
    assert where(desk, "z") == [("a", 0)]


def test_never_more_than_half_of_the_cards_are_aside(desk: Desk) -> None:
    put_aside(desk, 1)
    put_aside(desk, 2)
    assert where(desk, "z") == [("a", 1)]


def test_for_ever_only_where_another_card_of_the_kind_is_in_service() -> None:
    desk = Desk()
    desk.node("a", LARGE, SMALL)
    only_large: dict[str, Any] = {"gpu_types": ("RTX 4090",)}
    for number in range(MAX_TIMES + 2):
        runs = (run(f"{n}{number}", n, **only_large) for n in ("x", "y"))
        for spec in runs:
            desk.submit(spec)
            if desk.running([spec.run_id]):
                desk.fail(spec.run_id, Cause.DEVICE_FAULT)
            desk.cancel(spec.run_id)
        desk.pass_time(ASIDE_SECONDS * 2**MAX_TIMES)
    desk.submit(run("z", **only_large))
    assert desk.where("z") == [("a", 0)]


def test_what_was_aside_for_ever_is_tried_when_the_others_of_its_kind_are_lost() -> None:
    desk = Desk()
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    put_aside(desk)
    for number in range(1, MAX_TIMES):
        desk.pass_time(ASIDE_SECONDS * 2 ** (number - 1))
        strike(desk, Cause.HANG, run(f"trial{number}"))
    desk.lose("b")
    desk.submit(run("z"))
    assert not desk.running("z")
    desk.pass_time(ASIDE_SECONDS)
    assert desk.where("z") == [("a", 0)]


def test_a_node_whose_cards_fail_one_as_the_other_is_put_aside_as_a_whole() -> None:
    desk = Desk()
    desk.node("a", LARGE, LARGE, LARGE)
    desk.node("b", LARGE, LARGE, LARGE)
    desk.submit(*(run(f"r{i}", gib=None) for i in range(3)))
    for index in range(3):
        assert desk.where(f"r{index}") == [("a", index)]
        desk.fail(f"r{index}", Cause.START_FAILED)
        desk.cancel(f"r{index}")
    assert where(desk, "z") == [("b", 0)]
    desk.submit(run("cpu", device=DeviceKind.CPU, gib=None, num_cpus=1.0))
    assert desk.where("cpu") == [("b", None)]
    desk.pass_time(ASIDE_SECONDS)
    names = [f"t{i}" for i in range(5)]
    desk.submit(*(run(name, gib=None) for name in names))
    trial = [name for name in names if ("a", 0) in desk.where(name)]
    assert len(trial) == 1
    assert len(desk.running(names)) == 3, "the node is tried with one run"
    desk.up(*trial)
    desk.finish(*trial)
    assert len(desk.running(names)) == 4, "then it is trusted: the other two are there"


def test_a_gang_may_be_the_one_run_with_which_a_node_is_tried() -> None:
    desk = Desk()
    desk.node("a", LARGE, LARGE)
    desk.node("b", SMALL, SMALL)
    desk.submit(*(run(f"r{i}", gib=20) for i in range(3)))
    for index in (0, 1):
        desk.fail(f"r{index}", Cause.START_FAILED)
        desk.cancel(f"r{index}")
    assert desk.where("r2") == [("a", 0)]
    desk.fail("r2", Cause.START_FAILED)
    desk.cancel("r2")
    desk.submit(run("gang", gib=20, num_gpus=2))
    assert desk.status("gang").reason is PendingReason.SET_ASIDE
    desk.pass_time(ASIDE_SECONDS)
    assert desk.where("gang") == [("a", 0), ("a", 1)]


def test_a_node_that_comes_back_is_as_little_trusted_as_before(desk: Desk) -> None:
    desk.node("b", SMALL)
    strike(desk, Cause.DEVICE_FAULT, run("x", "one", gib=10), run("y", "two", gib=10))
    desk.lose("a")
    desk.node("a", LARGE, LARGE)
    desk.submit(run("z", gib=10))
    assert desk.where("z") == [("a", 1)]


def test_what_is_aside_is_a_fold_over_the_events(desk: Desk) -> None:
    put_aside(desk)
    desk.submit(run("other", gib=23), run("waits"))
    desk.up("other")
    again = Scheduler()
    for event in desk.world.journal:
        again.handle(event)
    assert again.statuses() == desk.scheduler.statuses()
    assert again.next_wakeup == desk.scheduler.next_wakeup
    run_id = RunId("waits")
    assert again.explain(run_id, 60.0) == desk.scheduler.explain(run_id, 60.0)
