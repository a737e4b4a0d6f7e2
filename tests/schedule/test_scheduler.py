"""What the scheduler decides in situations that people meet."""

import dataclasses
from collections.abc import Iterable

import pytest

from orchestrator.errors import TransitionError
from orchestrator.messages import (
    Action,
    CancelRequested,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    KillGang,
    NodeChanged,
    NodeJoined,
    NodeLost,
    PreemptGang,
    PriorityChanged,
    ResumeRequested,
    RunSubmitted,
    StartGang,
    TimePassed,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import (
    AttemptId,
    Cause,
    DeviceKind,
    NodeId,
    PendingReason,
    RetryBudget,
    RunId,
    RunSpec,
    RunState,
    RunStatus,
    StopMode,
)
from tests.schedule.world import World
from tests.strategies import GIB, make_node, make_spec

SMALL, LARGE, HUGE = ("RTX 2060", 6 * GIB), ("RTX 4090", 24 * GIB), ("A100", 80 * GIB)


class Desk:
    """A world with short words."""

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        self.scheduler = scheduler or Scheduler()
        self.world = World(self.scheduler)

    def node(
        self,
        name: str,
        *cards: tuple[str, int],
        foreign: int = 0,
        cpus: float = 8.0,
        ram: float = 0,
    ) -> None:
        node = make_node(name, *cards, foreign_bytes=foreign, num_cpus=cpus, ram_gib=ram)
        self.world.tell(NodeJoined(at=self.world.now, node=node))

    def submit(self, *specs: RunSpec) -> None:
        for spec in specs:
            self.world.tell(RunSubmitted(at=self.world.now, spec=spec))

    def attempt(self, name: str) -> AttemptId:
        return AttemptId(run_id=RunId(name), number=self.status(name).attempt)

    def up(self, *names: str) -> None:
        for name in names:
            self.world.tell(GangStarted(at=self.world.now, attempt=self.attempt(name)))

    def epoch(self, name: str) -> None:
        self.world.tell(self.world.progress(self.attempt(name)))

    def finish(self, *names: str) -> None:
        for name in names:
            self.world.tell(GangFinished(at=self.world.now, attempt=self.attempt(name)))

    def fail(self, name: str, cause: Cause, detail: str = "planted") -> tuple[Action, ...]:
        return self.world.tell(
            GangFailed(at=self.world.now, attempt=self.attempt(name), cause=cause, detail=detail)
        )

    def yield_(self, name: str) -> tuple[Action, ...]:
        return self.world.tell(GangYielded(at=self.world.now, attempt=self.attempt(name)))

    def lose(self, name: str) -> tuple[Action, ...]:
        return self.world.tell(NodeLost(at=self.world.now, node_id=NodeId(name)))

    def cancel(self, name: str, *, now: bool = False) -> tuple[Action, ...]:
        return self.world.tell(CancelRequested(at=self.world.now, run_id=RunId(name), now=now))

    def pass_time(self, seconds: float) -> tuple[Action, ...]:
        self.world.now += seconds
        return self.world.tell(TimePassed(at=self.world.now))

    def status(self, name: str) -> RunStatus:
        return self.scheduler.status(RunId(name))

    def state(self, name: str) -> RunState:
        return self.status(name).state

    def where(self, name: str) -> list[tuple[str, int | None]]:
        placement = self.status(name).placement
        return [(s.node_id, s.card) for s in placement.shares] if placement else []

    def running(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self.state(name).holds_gpus]


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- where


def test_shares_fill_one_card_before_the_next(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE)
    desk.submit(*(make_spec(f"r{i}", gib=8) for i in range(4)))
    assert [desk.where(f"r{i}") for i in range(4)] == [[("a", 0)]] * 3 + [[("a", 1)]]


def test_the_smallest_card_that_is_large_enough_is_taken(desk: Desk) -> None:
    desk.node("a", HUGE, LARGE, SMALL)
    desk.submit(make_spec("r", gib=5), make_spec("s", gib=10), make_spec("t", gib=30))
    assert [desk.where(name) for name in "rst"] == [[("a", 2)], [("a", 1)], [("a", 0)]]


def test_a_run_without_bytes_has_its_card_for_itself(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"), make_spec("s", gib=1))
    assert desk.running("rs") == ["r"]
    desk.up("r")
    desk.finish("r")
    assert desk.running("rs") == ["s"]


def test_what_others_hold_is_not_given_away(desk: Desk) -> None:
    desk.node("a", LARGE, foreign=10 * GIB)
    desk.submit(make_spec("r", gib=15), make_spec("w"))
    assert desk.status("r").reason is PendingReason.EXTERNAL_PROCESS
    assert desk.status("w").reason is PendingReason.EXTERNAL_PROCESS
    desk.submit(make_spec("s", gib=14))
    assert desk.running("rws") == ["s"]


def test_a_desktop_picture_does_not_make_a_card_used(desk: Desk) -> None:
    desk.node("a", LARGE, foreign=GIB)
    desk.submit(make_spec("r"))
    placement = desk.status("r").placement
    assert placement is not None
    assert placement.shares[0].memory_bytes == 23 * GIB


def test_a_gang_goes_to_one_node_and_waits_for_it(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE)
    desk.node("b", LARGE, LARGE)
    desk.submit(make_spec("r", priority=60), make_spec("s", priority=60))
    desk.up("r", "s")
    assert desk.where("r") + desk.where("s") == [("a", 0), ("a", 1)]
    desk.submit(make_spec("t"), make_spec("gang", num_gpus=2))
    desk.finish("r")
    assert desk.where("t") == [("b", 0)]
    assert desk.state("gang") is RunState.PENDING
    assert desk.status("gang").reason is PendingReason.FRAGMENTED
    desk.finish("s")
    assert desk.where("gang") == [("a", 0), ("a", 1)]


def test_a_gang_larger_than_every_node_is_spread_over_few(desk: Desk) -> None:
    for name in "abc":
        desk.node(name, LARGE, LARGE)
    desk.submit(make_spec("r", num_gpus=3))
    assert [node for node, _ in desk.where("r")] == ["a", "a", "b"]


def test_cards_of_a_gang_are_of_one_kind_when_a_kind_can_hold_it(desk: Desk) -> None:
    desk.node("a", SMALL, LARGE, LARGE)
    desk.submit(make_spec("r", num_gpus=2))
    assert desk.where("r") == [("a", 1), ("a", 2)]


def test_kinds_are_mixed_only_when_no_kind_could_ever_hold_the_gang(desk: Desk) -> None:
    desk.node("a", SMALL, LARGE)
    desk.submit(make_spec("r", num_gpus=2, gib=4))
    assert sorted(desk.where("r")) == [("a", 0), ("a", 1)]


@pytest.mark.parametrize(
    ("wanted", "name", "is_it"),
    [
        ("rtx 4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX-4090", "NVIDIA GeForce RTX 4090", True),
        ("rtx4090", "NVIDIA GeForce RTX 4090", True),
        ("4090", "NVIDIA GeForce RTX 4090", True),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", True),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("RTX 4080", "NVIDIA GeForce RTX 4080 SUPER", False),
        ("RTX 4080 SUPER", "NVIDIA GeForce RTX 4080 SUPER", True),
        ("H100", "NVIDIA A100-SXM4-80GB", False),
    ],
)
def test_gpu_types_are_names_as_people_write_them(
    desk: Desk, wanted: str, name: str, is_it: bool
) -> None:
    desk.node("a", (name, 24 * GIB))
    desk.submit(make_spec("r", gpu_types=(wanted,)))
    assert desk.state("r").holds_gpus is is_it
    assert is_it or desk.status("r").reason is PendingReason.NO_MATCHING_GPU


def test_a_run_on_the_cpu_takes_cpus_and_no_card(desk: Desk) -> None:
    desk.node("a", LARGE, cpus=4.0)
    specs = [make_spec(n, device=DeviceKind.CPU, num_cpus=3.0) for n in "rs"]
    desk.submit(*specs, make_spec("g", num_cpus=1.0), make_spec("h", gib=1))
    assert desk.running("rsgh") == ["r", "g"]
    assert desk.status("r").gpu == "cpu"
    assert desk.status("s").reason is PendingReason.WAITING_FOR_CPU_OR_RAM


def test_what_can_never_run_is_in_nobodys_way(desk: Desk) -> None:
    desk.node("a", SMALL)
    desk.submit(
        make_spec("big", gib=30, priority=90),
        make_spec("many", num_gpus=9, priority=90),
        make_spec("r", priority=10),
    )
    assert desk.running(["big", "many", "r"]) == ["r"]
    assert desk.status("big").reason is PendingReason.NO_MATCHING_GPU
    assert desk.status("many").reason is PendingReason.EXCEEDS_CLUSTER
    desk.node("b", HUGE)
    assert desk.state("big").holds_gpus


def test_a_gang_of_shares_fills_the_tightest_cards_of_its_node(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE, LARGE)
    desk.submit(make_spec("w"), make_spec("r", gib=10))
    assert desk.where("r") == [("a", 1)]
    desk.up("w")
    desk.finish("w")
    desk.submit(make_spec("gang", num_gpus=2, gib=5))
    assert desk.where("gang") == [("a", 1), ("a", 0)]


def test_a_share_of_a_card_needs_its_cpus_too(desk: Desk) -> None:
    desk.node("a", LARGE, cpus=2.0)
    desk.submit(*(make_spec(name, gib=2, num_cpus=1.0) for name in "rst"))
    assert desk.running("rst") == ["r", "s"]
    assert desk.status("t").reason is PendingReason.WAITING_FOR_CPU_OR_RAM


def test_a_whole_card_stays_whole_when_foreign_processes_leave_it(desk: Desk) -> None:
    desk.node("a", LARGE, foreign=2 * GIB)
    desk.submit(make_spec("w"))
    assert desk.where("w") == [("a", 0)]
    desk.world.tell(NodeChanged(at=0.0, node=make_node("a", LARGE)))
    desk.submit(make_spec("r", gib=1))
    assert desk.running("wr") == ["w"]


# --- who


def test_higher_priority_first_and_the_older_first_inside_one(desk: Desk) -> None:
    desk.submit(make_spec("r"), make_spec("s"), make_spec("t", priority=60))
    desk.node("a", LARGE)
    order = []
    for _ in range(3):
        (name,) = desk.running("rst")
        order.append(name)
        desk.up(name)
        desk.finish(name)
    assert order == ["t", "r", "s"]


def test_a_higher_priority_makes_room_at_the_lowest_and_newest_first(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE, LARGE)
    specs = [make_spec("r", priority=20), make_spec("s", priority=10), make_spec("t", priority=10)]
    desk.submit(*specs)
    desk.up("r", "s", "t")
    desk.submit(make_spec("u", priority=50))
    assert desk.running("rstu") == ["r", "s", "t"]
    assert desk.state("t") is RunState.STOPPING
    assert desk.status("u").reason is PendingReason.WAITING_FOR_PREEMPTED
    desk.yield_("t")
    assert desk.running("rstu") == ["r", "s", "u"]
    assert "makes room for u" in desk.status("t").detail


def test_a_gang_that_has_not_started_is_killed_for_a_higher_priority(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", priority=10), make_spec("s"))
    desk.fail("r", Cause.KILLED)
    assert desk.running("rs") == ["s"]
    assert desk.status("r").reason is PendingReason.WAITING_FOR_GPU, "no backoff, no fault"


def test_no_more_gangs_leave_than_needed(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE, LARGE, LARGE)
    desk.submit(*(make_spec(f"r{i}", priority=10) for i in range(4)))
    desk.up(*(f"r{i}" for i in range(4)))
    desk.submit(make_spec("s", num_gpus=2), make_spec("t"))
    leaving = [i for i in range(4) if desk.state(f"r{i}") is RunState.STOPPING]
    assert leaving == [1, 2, 3], "the oldest stays"


def test_a_gang_that_would_not_help_stays(desk: Desk) -> None:
    desk.node("a", LARGE, LARGE)
    desk.submit(
        make_spec("old", priority=10),
        make_spec("high", gib=20, priority=90),
        make_spec("new", gib=2, priority=10),
    )
    desk.up("old", "high", "new")
    desk.submit(make_spec("w"))
    assert desk.state("new") is RunState.RUNNING, "its card is not free without it either"
    assert desk.state("old") is RunState.STOPPING


def test_of_a_large_gang_too_no_more_leave_than_needed(desk: Desk) -> None:
    for name in "abc":
        desk.node(name, LARGE, LARGE)
    lower = [make_spec(f"r{i}", priority=10) for i in range(5)]
    desk.submit(
        make_spec("high", gib=20, priority=90), *lower, make_spec("new", gib=2, priority=10)
    )
    desk.up("high", "new", *(spec.run_id for spec in lower))
    desk.submit(make_spec("gang", num_gpus=3))
    leaving = [n for n in ("new", *(s.run_id for s in lower)) if desk.status(n).detail]
    assert leaving == ["r2", "r3", "r4"]


def test_room_that_becomes_free_goes_to_the_first_in_line(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", gib=11), make_spec("first"))
    desk.pass_time(300.0)
    assert desk.state("r") is RunState.STOPPING, "it did not start in time"
    desk.submit(make_spec("s", gib=2, priority=10))
    assert desk.state("s") is RunState.PENDING
    desk.fail("r", Cause.KILLED)
    assert desk.running(["r", "first", "s"]) == ["first"]


def test_equal_priority_never_makes_anyone_leave(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"), make_spec("s"))
    assert desk.state("r") is RunState.STARTING


def test_preemption_can_be_switched_off() -> None:
    desk = Desk(Scheduler(preempt=False))
    desk.node("a", LARGE)
    desk.submit(make_spec("r", priority=10), make_spec("s", priority=90))
    assert desk.state("r") is RunState.STARTING
    assert desk.status("s").reason is PendingReason.WAITING_FOR_GPU


def test_priorities_can_be_changed_and_count_at_once(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"), make_spec("s"))
    desk.up("r")
    change = PriorityChanged(at=0.0, run_id=RunId("s"), priority=51)
    assert desk.world.tell(change) == (
        PreemptGang(attempt=desk.attempt("r"), mode=StopMode.AT_BATCH),
    )


@pytest.mark.parametrize("cards", [(2,), (1, 1)], ids=["on one node", "spread"])
@pytest.mark.parametrize("is_preempting", [True, False])
def test_a_gang_is_passed_for_a_while_and_then_room_is_kept_for_it(
    cards: tuple[int, ...], is_preempting: bool
) -> None:
    """Nobody starves: small runs come without end, and the large one starts."""
    hold = 600.0
    desk = Desk(Scheduler(hold_after_seconds=hold, preempt=is_preempting))
    for name, num in zip("ab", cards, strict=False):
        desk.node(name, *([LARGE] * num))
    desk.submit(make_spec("r0"), make_spec("gang", num_gpus=2), make_spec("r1"))
    desk.up("r0", "r1")
    assert desk.running(["r0", "r1", "gang"]) == ["r0", "r1"], "it may be passed at first"
    for number in range(2, 50):
        desk.pass_time(100.0)
        desk.submit(make_spec(f"r{number}"))
        if desk.running([f"r{number - 2}"]):
            desk.finish(f"r{number - 2}")
        if desk.running([f"r{number}"]):
            desk.up(f"r{number}")
        if desk.state("gang").holds_gpus:
            break
    assert desk.state("gang").holds_gpus
    assert desk.world.now <= hold + 300.0


def test_room_that_is_kept_for_one_is_no_loss_for_those_who_use_other_cards() -> None:
    desk = Desk(Scheduler(hold_after_seconds=100.0))
    desk.node("a", LARGE, LARGE)
    desk.node("b", SMALL)
    desk.submit(make_spec("r", gpu_types=("RTX 4090",)))
    desk.submit(make_spec("gang", num_gpus=2, gpu_types=("RTX 4090",)))
    desk.pass_time(200.0)
    desk.submit(make_spec("s", gib=10), make_spec("t", gib=2))
    assert desk.running("st") == ["t"]
    assert desk.where("t") == [("b", 0)]


def test_room_that_is_kept_for_one_is_open_to_a_higher_priority() -> None:
    desk = Desk(Scheduler(hold_after_seconds=100.0))
    desk.node("a", LARGE, LARGE)
    desk.submit(make_spec("r", priority=90), make_spec("gang", num_gpus=2))
    desk.pass_time(200.0)
    desk.submit(make_spec("s"))
    assert desk.state("s") is RunState.PENDING, "room is kept for the gang"
    desk.submit(make_spec("t", priority=60))
    assert desk.state("t").holds_gpus


# --- how it ends


def test_a_gang_that_does_not_start_in_time_is_killed_and_tried_again(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    assert desk.scheduler.next_wakeup == 300.0
    assert desk.pass_time(300.0) == (KillGang(attempt=desk.attempt("r")),)
    assert desk.pass_time(60.0) == (KillGang(attempt=desk.attempt("r")),), "and again"
    desk.fail("r", Cause.KILLED)
    assert desk.status("r").reason is PendingReason.BACKOFF
    assert desk.status("r").cause is Cause.START_FAILED
    assert isinstance(desk.pass_time(2.0)[0], StartGang)


def test_a_gang_that_does_not_yield_is_killed_after_the_grace(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", priority=10))
    desk.up("r")
    desk.submit(make_spec("s"))
    assert desk.pass_time(59.0) == ()
    assert desk.pass_time(1.0) == (KillGang(attempt=desk.attempt("r")),)
    desk.fail("r", Cause.KILLED)
    assert desk.running("rs") == ["s"]


def test_cards_are_free_only_when_the_world_says_so(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"), make_spec("s"))
    desk.up("r")
    desk.cancel("r", now=True)
    for _ in range(5):
        desk.pass_time(60.0)
        assert desk.running("rs") == ["r"]
    desk.fail("r", Cause.KILLED)
    assert desk.running("rs") == ["s"]
    assert desk.state("r") is RunState.CANCELLED


def test_a_polite_cancel_lets_the_epoch_end_however_long_it_takes(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    assert desk.cancel("r") == (PreemptGang(attempt=desk.attempt("r"), mode=StopMode.AFTER_EPOCH),)
    assert desk.pass_time(10_000.0) == ()
    desk.epoch("r")
    desk.yield_("r")
    assert desk.state("r") is RunState.CANCELLED
    assert desk.status("r").epoch == 1


def test_a_completed_epoch_alone_publishes_no_row(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    desk.scheduler.drain_changes()
    desk.epoch("r")
    assert desk.scheduler.drain_changes() == ()
    assert desk.status("r").epoch == 1, "the next row says it"


def test_an_impatient_cancel_follows_a_polite_one(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    desk.cancel("r")
    assert desk.cancel("r", now=True) == (KillGang(attempt=desk.attempt("r")),)


def test_a_cancelled_run_whose_process_can_train_the_next_one_leaves_at_its_batch(
    desk: Desk,
) -> None:
    desk.node("a", LARGE)
    desk.submit(dataclasses.replace(make_spec("r"), warm="night"))
    desk.up("r")
    at_batch = PreemptGang(attempt=desk.attempt("r"), mode=StopMode.ABANDON)
    assert desk.cancel("r", now=True) == (at_batch,)
    assert desk.pass_time(60.0) == (KillGang(attempt=desk.attempt("r")),), "the grace is over"
    desk.fail("r", Cause.KILLED)
    assert desk.state("r") is RunState.CANCELLED


def test_a_cancelled_run_that_leaves_at_its_batch_is_killed_when_asked_again(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(dataclasses.replace(make_spec("r"), warm="night"))
    desk.up("r")
    desk.cancel("r", now=True)
    assert desk.cancel("r", now=True) == (KillGang(attempt=desk.attempt("r")),)


def test_a_gang_that_finishes_while_it_is_asked_to_leave_has_succeeded(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    desk.cancel("r")
    desk.finish("r")
    assert desk.state("r") is RunState.SUCCEEDED


def test_resume_goes_on_with_the_same_id_the_next_attempt_and_a_fresh_budget(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", retry=RetryBudget(user_errors=0)))
    desk.up("r")
    desk.epoch("r")
    desk.fail("r", Cause.USER_ERROR, "shapes differ")
    assert desk.state("r") is RunState.FAILED
    assert "shapes differ" in desk.status("r").detail
    (start,) = desk.world.tell(ResumeRequested(at=0.0, run_id=RunId("r")))
    assert isinstance(start, StartGang)
    assert start.attempt.number == 2
    assert [ref.epoch for ref in start.checkpoints] == [1]
    assert desk.status("r").cause is None


def test_resume_gives_every_retry_back(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", retry=RetryBudget(user_errors=1)))
    for _ in range(2):
        desk.fail("r", Cause.USER_ERROR)
        desk.pass_time(300.0)
    assert desk.state("r") is RunState.FAILED
    desk.world.tell(ResumeRequested(at=desk.world.now, run_id=RunId("r")))
    desk.fail("r", Cause.USER_ERROR)
    assert desk.status("r").reason is PendingReason.BACKOFF


def test_success_is_final(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    desk.finish("r")
    desk.cancel("r", now=True)
    desk.world.tell(ResumeRequested(at=0.0, run_id=RunId("r")))
    assert desk.state("r") is RunState.SUCCEEDED
    assert desk.scheduler.is_idle


def test_a_lost_node_frees_nothing_elsewhere_until_the_gang_is_gone(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    desk.submit(make_spec("r", num_gpus=2), make_spec("s"))
    desk.up("r")
    assert desk.lose("a") == (KillGang(attempt=desk.attempt("r")),)
    assert desk.pass_time(60.0) == (KillGang(attempt=desk.attempt("r")),), "and again"
    assert desk.running("rs") == ["r"]
    desk.fail("r", Cause.WORKER_LOST)
    assert desk.running("rs") == ["s"]


def test_a_gang_whose_every_node_is_lost_is_not_waited_for_longer_than_the_grace(
    desk: Desk,
) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    desk.lose("a")
    desk.node("b", LARGE)
    desk.pass_time(60.0)
    assert desk.status("r").reason is PendingReason.BACKOFF
    desk.pass_time(2.0)
    assert desk.where("r") == [("b", 0)]


def test_progress_pays_losses_back_and_only_losses(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", epochs=40, retry=RetryBudget(losses_without_progress=2)))
    for _ in range(10):
        desk.up("r")
        desk.epoch("r")
        desk.fail("r", Cause.WORKER_LOST)
        desk.pass_time(300.0)
    assert desk.status("r").epoch == 10
    for _ in range(2):  # the last of the ten was the first without progress
        assert not desk.state("r").is_terminal
        desk.fail("r", Cause.WORKER_LOST)
        desk.pass_time(300.0)
    assert desk.state("r") is RunState.FAILED
    assert "without completing an epoch" in desk.status("r").detail


def test_a_node_that_failed_a_run_is_avoided_when_there_is_another(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    desk.submit(make_spec("r"))
    assert desk.where("r") == [("a", 0)]
    desk.fail("r", Cause.DEVICE_FAULT)
    desk.pass_time(2.0)
    assert desk.where("r") == [("b", 0)]
    desk.up("r")
    desk.epoch("r")
    desk.fail("r", Cause.DRIVER_LOST)
    assert desk.where("r") == [("a", 0)], "after progress the past is forgotten"


def test_out_of_memory_cuts_the_step_then_moves_to_a_larger_card_then_gives_up(
    desk: Desk,
) -> None:
    desk.node("a", SMALL, LARGE)
    desk.submit(make_spec("r", batch=4))
    seen = []
    while not desk.state("r").is_terminal:
        status = desk.status("r")
        assert status.batch is not None
        seen.append((desk.where("r")[0][1], status.batch.micro_batch))
        assert status.batch.effective_batch == 4
        desk.fail("r", Cause.OUT_OF_MEMORY)
    assert seen == [(0, 4), (0, 2), (0, 1), (1, 1)]
    assert desk.state("r") is RunState.FAILED
    assert desk.status("r").cause is Cause.OUT_OF_MEMORY


def test_a_share_that_was_too_small_grows_up_to_the_largest_card(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", batch=1, gib=8))
    sizes = []
    while not desk.state("r").is_terminal:
        placement = desk.status("r").placement
        assert placement is not None
        sizes.append(placement.shares[0].memory_bytes // GIB)
        desk.fail("r", Cause.OUT_OF_MEMORY)
    assert sizes == [8, 12, 18, 24]


def test_a_run_ends_after_its_longest_duration_of_training(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", max_duration_seconds=1000.0))
    desk.pass_time(100.0)
    desk.up("r")
    desk.pass_time(600.0)
    desk.epoch("r")
    desk.fail("r", Cause.WORKER_LOST)
    desk.pass_time(50.0)
    desk.up("r")
    assert desk.scheduler.next_wakeup == desk.world.now + 400.0
    assert isinstance(desk.pass_time(400.0)[0], PreemptGang)
    desk.yield_("r")
    assert desk.state("r") is RunState.FAILED
    assert "max_duration" in desk.status("r").detail


def test_a_batch_that_cannot_be_cut_fails_at_once_and_says_what_to_do(desk: Desk) -> None:
    desk.submit(make_spec("r", num_gpus=3, batch=2))
    status = desk.status("r")
    assert status.state is RunState.FAILED
    assert "E2002" in status.detail
    assert "batch=3, or more" in status.detail
    assert desk.scheduler.is_idle


def test_a_smaller_cut_that_the_trainer_found_is_where_the_next_attempt_begins(
    desk: Desk,
) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r", batch=8))
    desk.up("r")
    report = desk.world.progress(desk.attempt("r"))
    smaller = dataclasses.replace(report.progress, micro_batch=3)
    desk.world.tell(dataclasses.replace(report, progress=smaller))
    desk.fail("r", Cause.DRIVER_LOST)
    batch = desk.status("r").batch
    assert batch is not None
    assert (batch.micro_batch, batch.effective_batch) == (3, 8)


# --- fences


def test_what_no_row_allows_is_loud_and_tells_the_story(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    desk.up("r")
    with pytest.raises(TransitionError, match="no row of the transition table") as caught:
        desk.scheduler.handle(GangYielded(at=5.0, attempt=desk.attempt("r")))
    assert [line.split(": ", 1)[1] for line in caught.value.why[:-1]] == [
        "PENDING -> STARTING",
        "STARTING -> RUNNING",
    ]
    assert caught.value.why[-1] == "now RUNNING"


def test_an_attempt_that_was_never_started_is_loud(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"))
    for run_id, number in (("r", 2), ("unknown", 1)):
        attempt = AttemptId(run_id=RunId(run_id), number=number)
        with pytest.raises(TransitionError):
            desk.scheduler.handle(GangStarted(at=0.0, attempt=attempt))


def test_wishes_about_runs_that_do_not_exist_change_nothing(desk: Desk) -> None:
    nobody = RunId("nobody")
    desk.cancel("nobody")
    desk.world.tell(ResumeRequested(at=0.0, run_id=nobody))
    desk.world.tell(PriorityChanged(at=0.0, run_id=nobody, priority=1))
    assert desk.scheduler.statuses() == ()


def test_a_run_that_is_submitted_twice_is_one_run(desk: Desk) -> None:
    desk.submit(make_spec("r"), make_spec("r", priority=90))
    assert [status.priority for status in desk.scheduler.statuses()] == [50]


def test_changes_are_told_once(desk: Desk) -> None:
    scheduler = Scheduler()
    scheduler.handle(RunSubmitted(at=0.0, spec=make_spec("r")))
    scheduler.handle(RunSubmitted(at=0.0, spec=make_spec("s")))
    assert [status.run_id for status in scheduler.drain_changes()] == ["r", "s"]
    assert scheduler.drain_changes() == ()
    scheduler.handle(NodeJoined(at=0.0, node=make_node("a", LARGE)))
    changed = {status.run_id: status.state for status in scheduler.drain_changes()}
    assert changed == {"r": RunState.STARTING, "s": RunState.PENDING}, "s can now be held"


def test_orphans_are_nodes_first_and_then_every_gang(desk: Desk) -> None:
    desk.node("a", LARGE)
    desk.submit(make_spec("r"), make_spec("s"))
    orphans = desk.scheduler.orphans(at=9.0)
    assert [type(event) for event in orphans] == [NodeLost, GangFailed]
    for event in orphans:
        desk.world.tell(event)
    assert desk.scheduler.nodes() == ()
    assert desk.running("rs") == []
    desk.node("a", LARGE)
    assert desk.running("rs") == ["r"]
