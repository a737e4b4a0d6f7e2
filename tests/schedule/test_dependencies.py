"""Runs that come after others: they wait, they end with them, they start from their weights."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.messages import (
    GangFailed,
    GangFinished,
    PriorityChanged,
    ProgressReported,
    ResumeRequested,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.dependencies import best_checkpoint
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.codec import decode, encode
from orchestrator.types import (
    AttemptId,
    Cause,
    CheckpointRef,
    Part,
    PendingReason,
    Progress,
    RetryBudget,
    RunId,
    RunState,
)
from tests.schedule.test_scheduler import LARGE, SMALL, Desk
from tests.strategies import make_spec

ONCE = RetryBudget(user_errors=0)


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.node("a", LARGE, LARGE)
    return desk


def resume(desk: Desk, name: str) -> None:
    desk.world.tell(ResumeRequested(at=desk.world.now, run_id=RunId(name)))


def run_to_its_end(desk: Desk, name: str) -> None:
    desk.up(name)
    desk.finish(name)


def test_a_run_waits_for_those_before_it_although_cards_are_free(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",)))
    assert desk.state("one") is RunState.STARTING
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS
    run_to_its_end(desk, "one")
    assert desk.state("two") is RunState.STARTING


def test_all_of_them_have_to_succeed(desk: Desk) -> None:
    desk.submit(make_spec("a"), make_spec("b"), make_spec("c", after=("a", "b", "a")))
    run_to_its_end(desk, "b")
    assert desk.state("c") is RunState.PENDING
    run_to_its_end(desk, "a")
    assert desk.state("c") is RunState.STARTING


def test_one_that_waits_keeps_no_card_from_others(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",), priority=90), make_spec("three"))
    assert desk.running(("one", "two", "three")) == ["one", "three"]
    desk.world.tell(PriorityChanged(at=0.0, run_id=RunId("two"), priority=100))
    assert desk.state("two") is RunState.PENDING
    desk.submit(make_spec("four"))
    assert desk.status("four").reason is PendingReason.WAITING_FOR_GPU
    run_to_its_end(desk, "one")
    assert desk.running(("two", "three", "four")) == ["two", "three"]


def test_one_after_a_run_that_has_succeeded_starts_at_once(desk: Desk) -> None:
    desk.submit(make_spec("one"))
    run_to_its_end(desk, "one")
    desk.submit(make_spec("two", after=("one",)))
    assert desk.state("two") is RunState.STARTING


def test_a_failure_ends_the_whole_line_and_names_the_run(desk: Desk) -> None:
    desk.submit(
        make_spec("one", retry=ONCE),
        make_spec("two", after=("one",)),
        make_spec("three", after=("two",)),
    )
    desk.up("one")
    desk.fail("one", Cause.USER_ERROR)
    for name, before, why in (("two", "one", "USER_ERROR"), ("three", "two", "DEPENDENCY_FAILED")):
        status = desk.status(name)
        assert status.state is RunState.FAILED
        assert status.cause is Cause.DEPENDENCY_FAILED
        assert f"{before}, which FAILED ({why})" in status.detail
    assert desk.scheduler.is_idle


def test_what_is_retried_has_not_failed_yet(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",)))
    desk.up("one")
    desk.fail("one", Cause.WORKER_LOST)
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS


def test_a_cancelled_run_ends_those_after_it(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",)))
    desk.cancel("one", now=True)
    desk.fail("one", Cause.KILLED)
    assert desk.state("one") is RunState.CANCELLED
    assert "one, which CANCELLED" in desk.status("two").detail


def test_resumed_one_after_the_other_both_go_on(desk: Desk) -> None:
    desk.submit(make_spec("one", retry=ONCE), make_spec("two", after=("one",)))
    desk.up("one")
    desk.fail("one", Cause.USER_ERROR)
    resume(desk, "two")
    assert desk.status("two").cause is Cause.DEPENDENCY_FAILED  # its turn has not come
    resume(desk, "one")
    resume(desk, "two")
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS
    assert desk.status("two").cause is None
    run_to_its_end(desk, "one")
    assert desk.state("two") is RunState.STARTING


def test_a_waiting_run_can_be_cancelled_and_is_not_started_later(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",)))
    desk.cancel("two")
    assert desk.state("two") is RunState.CANCELLED
    run_to_its_end(desk, "one")
    assert desk.state("two") is RunState.CANCELLED
    resume(desk, "two")
    assert desk.state("two") is RunState.STARTING


@pytest.mark.parametrize("name", ["nobody", "two"])
def test_a_run_after_an_unknown_one_or_itself_ends_and_says_so(name: str, desk: Desk) -> None:
    desk.submit(make_spec("two", after=(name,)))
    status = desk.status("two")
    assert status.state is RunState.FAILED
    assert status.cause is Cause.DEPENDENCY_FAILED
    assert f"comes after {name}, and no such run" in status.detail
    assert desk.scheduler.is_idle


def test_an_unknown_run_that_comes_later_can_be_waited_for_after_a_resume(desk: Desk) -> None:
    desk.submit(make_spec("two", after=("one",)), make_spec("one"))
    resume(desk, "two")
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS


def test_a_very_long_line_ends_at_once() -> None:
    desk = Desk()
    desk.submit(make_spec("r0"))
    num_runs = 2_000
    for number in range(1, num_runs):
        spec = make_spec(f"r{number}", after=(f"r{number - 1}",))
        desk.scheduler.handle(RunSubmitted(at=0.0, spec=spec))
    desk.cancel("r0")
    assert desk.status(f"r{num_runs - 1}").cause is Cause.DEPENDENCY_FAILED
    assert desk.scheduler.is_idle


def test_the_explanation_names_the_runs_and_their_state(desk: Desk) -> None:
    desk.submit(
        make_spec("one"), make_spec("other"), make_spec("last"), make_spec("r", after=("one",))
    )
    desk.submit(make_spec("s", after=("r", "last")))
    desk.up("one")
    desk.epoch("one")
    told = desk.scheduler.explain(RunId("r"), 0.0)
    assert told.reason is PendingReason.WAITING_FOR_RUNS
    assert "other runs have to succeed first" in told.summary
    assert told.blockers == ("one (epoch 1/3, ends in about 2 s)",)
    assert told.remedies == ("see why: orc explain one",)
    assert desk.scheduler.explain(RunId("s"), 0.0).blockers == (
        "r (PENDING, WAITING_FOR_RUNS)",
        "last (PENDING, WAITING_FOR_GPU)",
    )


def checkpoint(
    desk: Desk, name: str, epoch: int, *, is_best: bool = False, attempt: int | None = None
) -> CheckpointRef:
    own = desk.attempt(name) if attempt is None else AttemptId(run_id=RunId(name), number=attempt)
    path = f"/{name}/{own.number}/{epoch}"
    return CheckpointRef(
        attempt=own, epoch=epoch, path=path, sha256="0", num_bytes=1, is_best=is_best
    )


def report(desk: Desk, ref: CheckpointRef) -> None:
    row = Progress(epoch=ref.epoch, epochs=9, metrics={}, seconds=1.0, num_images=1)
    desk.scheduler.handle(
        ProgressReported(at=0.0, attempt=ref.attempt, progress=row, checkpoint=ref)
    )


def started(actions: Sequence[object], name: str) -> StartGang:
    return next(a for a in actions if isinstance(a, StartGang) and a.attempt.run_id == name)


def test_the_next_run_starts_from_the_best_epoch_of_the_one_before(desk: Desk) -> None:
    desk.submit(make_spec("one", epochs=9), make_spec("two", weights_from="one"))
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS  # named once is enough
    desk.up("one")
    for epoch, is_best in ((1, True), (2, True), (3, False)):
        report(desk, checkpoint(desk, "one", epoch, is_best=is_best))
    actions = desk.scheduler.handle(GangFinished(at=0.0, attempt=desk.attempt("one")))
    assert started(actions, "two").weights == checkpoint(desk, "one", 2, is_best=True)


def test_a_best_epoch_that_was_trained_again_does_not_count(desk: Desk) -> None:
    desk.submit(make_spec("one", epochs=9))
    desk.up("one")
    report(desk, checkpoint(desk, "one", 1, is_best=True))
    report(desk, checkpoint(desk, "one", 2, is_best=True))
    desk.scheduler.handle(GangFailed(at=0.0, attempt=desk.attempt("one"), cause=Cause.DRIVER_LOST))
    desk.up("one")
    report(desk, checkpoint(desk, "one", 2))  # attempt 2 went on from epoch 1
    record = desk.scheduler._life.runs[RunId("one")]
    assert best_checkpoint(record) == checkpoint(desk, "one", 1, is_best=True, attempt=1)


def test_without_a_best_epoch_the_newest_counts_and_without_any_none(desk: Desk) -> None:
    desk.submit(make_spec("one"))
    record = desk.scheduler._life.runs[RunId("one")]
    assert best_checkpoint(record) is None
    refs = tuple(checkpoint(desk, "one", epoch) for epoch in (3, 2, 1))
    record.checkpoints = refs
    assert best_checkpoint(record) == refs[0]


def test_a_card_too_small_is_told_once_the_runs_before_have_succeeded() -> None:
    desk = Desk()
    desk.node("a", SMALL)
    desk.submit(make_spec("one", gib=2), make_spec("two", gib=20, after=("one",)))
    assert desk.status("two").reason is PendingReason.WAITING_FOR_RUNS
    run_to_its_end(desk, "one")
    assert desk.status("two").reason is PendingReason.NO_MATCHING_GPU


def test_what_a_run_comes_after_is_recorded_without_loss_and_old_records_are_read() -> None:
    part = Part(series="s", config="c", fold=2, num_folds=5, stage=1, num_stages=2, stage_name="x")
    spec = replace(make_spec("two", after=("one",), weights_from="one"), part=part)
    event = RunSubmitted(at=1.0, spec=spec)
    assert decode(encode(event)) == event
    old = encode(RunSubmitted(at=1.0, spec=make_spec("two")))
    for field in (',"after":[]', ',"weights_from":null', ',"part":null'):
        assert field in old
        old = old.replace(field, "")
    assert decode(old) == RunSubmitted(at=1.0, spec=make_spec("two"))


def test_a_part_is_told_in_words_and_cannot_be_outside() -> None:
    assert str(Part(series="", config="", fold=2, num_folds=5)) == "fold 2/5"
    staged = Part(series="", config="", stage=1, num_stages=3, stage_name="small")
    assert str(staged) == "stage 1/3 small"
    with pytest.raises(ValueError, match="fold 6 of 5"):
        Part(series="", config="", fold=6, num_folds=5)


def test_replay_leads_to_the_same_waiting(desk: Desk) -> None:
    desk.submit(make_spec("one"), make_spec("two", after=("one",)), make_spec("x", after=("two",)))
    run_to_its_end(desk, "one")
    desk.cancel("two")
    again = Scheduler()
    for event in desk.world.journal:
        again.handle(event)
    assert again.statuses() == desk.scheduler.statuses()
