"""A policy sizes gangs in rounds: resized from checkpoints, the batch kept, nobody lost."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from hypothesis import settings

from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_pace import Physics
from orchestrator.config.model import ClusterModel
from orchestrator.driver import drive
from orchestrator.messages import (
    Action,
    Event,
    NodeJoined,
    PaceMeasured,
    PolicyChanged,
    PreemptGang,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.policy import Candidate, legal_widths
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.speedup import Speedups
from orchestrator.schedule.standard import POLICIES, QUEUE, SUMMARIES, standard_scheduler
from orchestrator.store.memory import MemoryStore
from orchestrator.types import Pace, RunId, RunState, Seconds, StopMode
from tests.schedule.test_machine import GRACE, HOLD, PROFILE, START_TIMEOUT, Machine
from tests.schedule.test_scheduler import LARGE, Desk
from tests.strategies import make_node, make_spec


@dataclass
class Told:
    """Gives what a test writes down, and remembers what it was told."""

    wanted: dict[str, int]
    round_seconds: Seconds = 60.0
    resize_mode: StopMode = StopMode.AFTER_EPOCH

    def __post_init__(self) -> None:
        self.seen: list[tuple[tuple[Candidate, ...], int]] = []

    def widths(
        self, now: Seconds, candidates: Sequence[Candidate], num_gpus: int
    ) -> Mapping[RunId, int]:
        self.seen.append((tuple(candidates), num_gpus))
        return {RunId(name): width for name, width in self.wanted.items()}


class Whims:
    """Another number of cards for everybody each round; the first in the list is left alone."""

    round_seconds = 60.0
    resize_mode = StopMode.AT_BATCH

    def widths(
        self, now: Seconds, candidates: Sequence[Candidate], num_gpus: int
    ) -> Mapping[RunId, int]:
        given: dict[RunId, int] = {}
        for candidate in candidates:
            options = (0, *candidate.widths) if given else (candidate.width or candidate.widths[0],)
            drawn = hashlib.sha256(f"{candidate.run_id}/{now}".encode()).digest()[0]
            width = options[drawn % len(options)]
            if sum(given.values()) + width <= num_gpus:
                given[candidate.run_id] = width
        return given


class SizedMachine(Machine):
    def scheduler(self) -> Scheduler:
        return Scheduler(
            start_timeout_seconds=START_TIMEOUT,
            yield_grace_seconds=GRACE,
            hold_after_seconds=HOLD,
            policy=Whims(),
        )

    def tell(self, event: Event) -> None:
        self.is_broken = True
        self.obey(event)
        self.is_broken = False


TestSized = SizedMachine.TestCase
TestSized.settings = settings(PROFILE, max_examples=40)


def desk_of(wanted: dict[str, int], **kwargs: object) -> tuple[Desk, Told]:
    policy = Told(wanted, **kwargs)  # type: ignore[arg-type]  # fields of Told
    desk = Desk(Scheduler(policy=policy))
    desk.node("n", LARGE, LARGE, LARGE, LARGE)
    return desk, policy


def width(desk: Desk, name: str) -> int:
    return len(desk.where(name))


def test_a_run_starts_with_the_cards_that_the_policy_gives_it() -> None:
    desk, _ = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8))
    assert width(desk, "r") == 2
    batch = desk.status("r").batch
    assert batch is not None
    assert (batch.effective_batch, batch.world_size, batch.rank_batch) == (8, 2, 4)


def test_a_run_that_gets_none_waits_until_a_round_gives_it_some() -> None:
    desk, policy = desk_of({})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8))
    assert desk.state("r") is RunState.PENDING
    told = desk.scheduler.explain(RunId("r"), desk.world.now)
    assert "the policy gives the cards to other runs for now" in told.summary
    policy.wanted["r"] = 4
    desk.pass_time(30.0)
    assert desk.state("r") is RunState.PENDING  # no round is due
    desk.pass_time(31.0)
    assert width(desk, "r") == 4


@pytest.mark.parametrize(("old", "new"), [(1, 4), (4, 1)])
def test_a_gang_grows_and_shrinks_at_its_checkpoint(old: int, new: int) -> None:
    desk, policy = desk_of({"r": old})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, micro_batch=2, epochs=5))
    desk.up("r")
    desk.epoch("r")
    policy.wanted["r"] = new
    actions = desk.pass_time(61.0)
    assert [type(action) for action in actions] == [PreemptGang]
    assert width(desk, "r") == old  # until it has left
    started = desk.yield_("r")
    (start,) = [action for action in started if isinstance(action, StartGang)]
    assert start.placement.world_size == new
    assert start.batch.effective_batch == 8
    assert start.batch.micro_batch == 2  # what a card holds is another question
    assert [ref.epoch for ref in start.checkpoints] == [1]


def epoch_of(desk: Desk, name: str, seconds: Seconds) -> None:
    """An epoch that takes so long."""
    desk.world.now += seconds
    told = desk.world.progress(desk.attempt(name))
    desk.world.tell(replace(told, progress=replace(told.progress, seconds=seconds)))


def mode_of(actions: Sequence[Action]) -> StopMode:
    (preempted,) = [action for action in actions if isinstance(action, PreemptGang)]
    return preempted.mode


@pytest.mark.parametrize(
    ("since", "mode"), [(900.0, StopMode.AT_BATCH), (950.0, StopMode.AFTER_EPOCH)]
)
@pytest.mark.parametrize("new", [0, 4])
def test_an_epoch_that_ends_before_the_next_round_is_waited_for(
    since: Seconds, mode: StopMode, new: int
) -> None:
    desk, policy = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    epoch_of(desk, "r", 1000.0)
    policy.wanted["r"] = new
    assert mode_of(desk.pass_time(since)) is mode


@pytest.mark.parametrize("resize_mode", [StopMode.AFTER_EPOCH, StopMode.AT_BATCH])
def test_a_policy_is_told_what_a_change_repeats(resize_mode: StopMode) -> None:
    desk, policy = desk_of({"r": 2}, resize_mode=resize_mode)
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    epoch_of(desk, "r", 1000.0)
    told = {}
    for passed in (100.0, 800.0, 61.0, 200.0):  # the last is later than the epoch should end
        desk.pass_time(passed)
        ((candidate,), _) = policy.seen[-1]
        told[desk.world.now] = (candidate.left_seconds, candidate.again_seconds)
    speed = Speedups().of(make_spec("r"), 2)
    if resize_mode is StopMode.AT_BATCH:  # it saves within the epoch
        assert all(each == pytest.approx((8000.0 * speed, 0.0)) for each in told.values())
        return
    done = [(100.0, 100.0), (900.0, 900.0), (961.0, 0.0), (1000.0, 0.0)]
    expected = [((8000.0 - some) * speed, again * speed) for some, again in done]
    assert list(told.values()) == [pytest.approx(each) for each in expected]


def test_what_is_repeated_of_an_epoch_of_unknown_length_is_told_too() -> None:
    desk, policy = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8))
    desk.up("r")
    desk.pass_time(61.0)
    ((candidate,), _) = policy.seen[-1]
    assert candidate.left_seconds is None
    assert candidate.again_seconds == pytest.approx(61.0 * Speedups().of(make_spec("r"), 2))


def test_an_epoch_is_broken_off_once_and_again_only_for_twice_the_cards() -> None:
    desk, policy = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    epoch_of(desk, "r", 1000.0)

    def wants(width: int) -> list[StopMode]:
        policy.wanted["r"] = width
        asked = desk.pass_time(61.0)
        return [action.mode for action in asked if isinstance(action, PreemptGang)]

    def comes_back() -> None:
        desk.yield_("r")
        desk.up("r")

    assert wants(1) == [StopMode.AT_BATCH]
    comes_back()
    assert wants(0) == [], "it keeps its card until the epoch is complete"
    assert wants(2) == [StopMode.AT_BATCH], "unless it is given more"
    comes_back()
    assert wants(1) == []
    policy.wanted["r"] = 2
    epoch_of(desk, "r", 1000.0)
    assert wants(1) == [StopMode.AT_BATCH], "this is the next epoch"


@pytest.mark.parametrize("trainer", ["timm", "yolo"])
def test_an_epoch_that_is_kept_halfway_is_left_again_and_again(trainer: str) -> None:
    desk, policy = desk_of({"r": 2})
    spec = make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9)
    desk.submit(replace(spec, trainer=trainer))
    desk.up("r")
    for wanted in (4, 2, 4):
        policy.wanted["r"] = wanted
        assert mode_of(desk.pass_time(600.0)) is StopMode.AT_BATCH
        desk.yield_("r")
        desk.up("r")


def test_cards_of_gangs_that_keep_them_are_not_given_to_others() -> None:
    desk, policy = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    epoch_of(desk, "r", 1000.0)
    policy.wanted["r"] = 1
    desk.pass_time(61.0)
    desk.yield_("r")
    desk.up("r")
    policy.wanted = {"r": 0, "other": 4}
    desk.submit(make_spec("other", num_gpus=4, min_gpus=1, batch=8))
    desk.pass_time(61.0)
    asked = [({str(c.run_id) for c in candidates}, num) for candidates, num in policy.seen[-2:]]
    assert asked == [({"r", "other"}, 4), ({"other"}, 3)]


def test_steps_tell_the_pace_before_an_epoch_is_over() -> None:
    desk, policy = desk_of({"r": 2})
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    pace = Pace(epoch=1, seconds=500.0, num_images=64)
    desk.world.tell(PaceMeasured(at=desk.world.now, attempt=desk.attempt("r"), pace=pace))
    desk.pass_time(100.0)
    ((candidate,), _) = policy.seen[-1]
    speed = Speedups().of(make_spec("r"), 2)
    assert candidate.left_seconds == pytest.approx((9 * 500.0 - 100.0) * speed)
    desk.world.tell(PaceMeasured(at=desk.world.now, attempt=desk.attempt("r"), pace=pace))
    late = replace(pace, epoch=3)
    desk.world.tell(PaceMeasured(at=desk.world.now, attempt=desk.attempt("r"), pace=late))
    desk.pass_time(61.0)
    ((candidate,), _) = policy.seen[-1]
    assert candidate.left_seconds == pytest.approx((9 * 500.0 - 161.0) * speed)


def test_of_an_epoch_that_was_begun_with_other_cards_nothing_is_learned() -> None:
    desk, policy = desk_of({"r": 2}, resize_mode=StopMode.AT_BATCH)
    desk.submit(make_spec("r", num_gpus=4, min_gpus=1, batch=8, epochs=9))
    desk.up("r")
    epoch_of(desk, "r", 1000.0)

    def gain() -> float:
        """Of four cards over two."""
        desk.pass_time(61.0)
        ((candidate,), _) = policy.seen[-1]
        told = dict(zip(candidate.widths, candidate.speedups, strict=True))
        return told[4] / told[2]

    assumed = gain()
    policy.wanted["r"] = 4
    desk.pass_time(61.0)
    desk.yield_("r")
    desk.up("r")
    epoch_of(desk, "r", 950.0)  # most of it was done by two
    assert gain() == assumed
    epoch_of(desk, "r", 500.0)
    assert gain() == pytest.approx(2.0)


def foreseen(policy: Told) -> dict[str, bool]:
    return {str(c.run_id): c.is_foreseen for c in policy.seen[-1][0]}


@pytest.mark.parametrize(
    ("seconds", "is_told"),
    [((100.0, 100.0, 100.0), True), ((100.0, 900.0, 100.0), False)],  # they differ too much
)
def test_an_end_counts_as_foreseen_once_epochs_of_its_own_tell_it_well_enough(
    seconds: Sequence[Seconds], is_told: bool
) -> None:
    desk, policy = desk_of({"a": 2, "b": 2})
    desk.submit(*(make_spec(name, num_gpus=4, min_gpus=1, batch=8, epochs=50) for name in "ab"))
    desk.up("a")
    desk.pass_time(61.0)
    desk.up("b")
    assert foreseen(policy) == {"a": False, "b": False}
    for each in seconds:
        epoch_of(desk, "a", each)
    desk.pass_time(61.0)
    assert foreseen(policy) == {"a": is_told, "b": False}, "of the other only those alike tell"


def test_a_gang_that_is_to_stop_waits_aside_and_its_cards_go_to_others() -> None:
    desk, policy = desk_of({"a": 4})
    desk.submit(*(make_spec(name, num_gpus=4, batch=8) for name in "ab"))
    desk.up("a")
    policy.wanted = {"b": 4}
    desk.pass_time(61.0)
    desk.yield_("a")
    assert (desk.state("a"), width(desk, "b")) == (RunState.PENDING, 4)


def test_a_policy_is_told_of_what_is_left_and_of_cards_that_are_promised() -> None:
    desk, policy = desk_of({"a": 2, "b": 1})
    desk.submit(*(make_spec(name, num_gpus=4, min_gpus=1, batch=8, epochs=10) for name in "ab"))
    desk.up("a")
    desk.pass_time(61.0)
    desk.up("b")
    desk.epoch("a")
    policy.wanted = {"a": 3, "b": 1}
    desk.pass_time(61.0)  # `a` is asked to leave, and will come back with three
    candidates, num_gpus = policy.seen[-1]
    left = {str(c.run_id): c.left_seconds for c in candidates}
    # Of the epoch under way all but its end is done: epochs have taken a second.
    assert left["a"] == pytest.approx(8 * 1.0 * Speedups().of(make_spec("a"), 2))
    assert num_gpus == 4
    desk.pass_time(61.0)
    candidates, num_gpus = policy.seen[-1]
    assert [str(c.run_id) for c in candidates] == ["b"]
    assert num_gpus == 4 - policy.wanted["a"]


def test_runs_that_share_cards_are_none_of_its_business() -> None:
    desk, policy = desk_of({})
    desk.submit(make_spec("small", gib=2), make_spec("r", num_gpus=2, min_gpus=1, batch=4))
    assert desk.state("small") is RunState.STARTING
    candidates, num_gpus = policy.seen[-1]
    assert [str(c.run_id) for c in candidates] == ["r"]
    assert num_gpus == 3


def test_legal_widths_divide_the_batch() -> None:
    assert legal_widths(make_spec("r", num_gpus=6, min_gpus=1, batch=12)) == (1, 2, 3, 4, 6)
    assert legal_widths(make_spec("r", num_gpus=3, batch=12)) == (3,)


def test_speedups_are_learned_from_two_widths() -> None:
    speedups, spec = Speedups(), make_spec("r", num_gpus=8, min_gpus=1, batch=8)
    assumed = speedups.of(spec, 4)
    assert 2.0 < assumed < 4.0
    for one, seconds in ((1, 100.0), (2, 60.0)):  # 80 / width + 20
        speedups.progressed(spec, one, seconds)
    assert speedups.of(spec, 4) == pytest.approx(100.0 / 40.0)
    assert speedups.seconds_of_one(spec) == pytest.approx(100.0)


def test_a_width_that_was_measured_counts_as_it_was_measured() -> None:
    speedups, spec = Speedups(), make_spec("r", num_gpus=8, min_gpus=1, batch=8)
    for width, seconds in ((4, 40.0), (8, 60.0)):  # wider than a node, and slower
        speedups.progressed(spec, width, seconds)
    assert speedups.of(spec, 4) / speedups.of(spec, 8) == pytest.approx(60.0 / 40.0)
    assert speedups.of(spec, 4) >= speedups.of(spec, 6) >= speedups.of(spec, 8), "between both"
    assert speedups.of(spec, 16) <= 2 * speedups.of(spec, 8)


def test_no_width_is_taken_to_be_faster_than_its_cards_could_be() -> None:
    speedups, spec = Speedups(), make_spec("r", num_gpus=64, min_gpus=1, batch=64)
    for width, seconds in ((1, 100.0), (2, 20.0)):  # better than in proportion
        speedups.progressed(spec, width, seconds)
    assert speedups.of(spec, 2) == pytest.approx(5.0)
    assert speedups.of(spec, 8) == pytest.approx(20.0)


def test_what_is_known_beforehand_goes_before_what_was_measured() -> None:
    speedups, spec = Speedups(known=lambda _, width: width**0.5), make_spec("r", num_gpus=16)
    for width, seconds in ((4, 50.0), (16, 30.0)):
        speedups.progressed(spec, width, seconds)
    assert speedups.of(spec, 16) == pytest.approx(4.0)
    assert speedups.seconds_of_one(spec) == pytest.approx((50.0 * 2 + 30.0 * 4) / 2)


def test_what_ranks_cost_one_kind_of_runs_is_expected_of_others() -> None:
    speedups, other = Speedups(), make_spec("other", num_gpus=8, min_gpus=1, batch=16)
    spec = make_spec("r", num_gpus=8, min_gpus=1, batch=8)
    before = speedups.of(other, 8)
    for width, seconds in ((1, 100.0), (2, 100.0)):
        speedups.progressed(spec, width, seconds)
    assert 1.0 < speedups.of(other, 8) < before
    speedups.progressed(other, 8, 30.0)
    assert speedups.seconds_of_one(other) == pytest.approx(30.0 * speedups.of(other, 8))


def test_a_policy_can_be_chosen_and_left_while_runs_wait_and_train() -> None:
    policy = Told({"a": 2, "b": 1})
    desk = Desk(Scheduler(policies={"told": policy}))
    desk.node("n", LARGE, LARGE, LARGE, LARGE)
    desk.submit(*(make_spec(name, num_gpus=4, min_gpus=1, batch=8) for name in "abc"))
    assert desk.running("abc") == ["a"]  # each gets what it asks for
    desk.up("a")
    desk.world.tell(PolicyChanged(at=desk.world.now, name="told"))
    desk.pass_time(61.0)
    assert desk.state("a") is RunState.STOPPING
    desk.yield_("a")
    assert (width(desk, "a"), width(desk, "b"), desk.state("c")) == (2, 1, RunState.PENDING)
    desk.up("a", "b")
    desk.world.tell(PolicyChanged(at=desk.world.now, name="queue"))
    desk.finish("a", "b")
    assert width(desk, "c") == 4


@pytest.mark.parametrize("name", POLICIES)
def test_a_driver_that_takes_over_goes_on_as_the_one_before(name: str) -> None:
    runs = [
        make_spec(
            each,
            num_gpus=4,
            min_gpus=1,
            batch=8,
            epochs=3 + 9 * at,
            options={"epoch_seconds": 40.0 * 3**at},
        )
        for at, each in enumerate("abcd")
    ]
    node = make_node("n", LARGE, LARGE, LARGE, LARGE)
    happenings: list[Event] = [
        NodeJoined(at=0.0, node=node),
        PolicyChanged(at=0.0, name=name),
        *(RunSubmitted(at=200.0 * at, spec=spec) for at, spec in enumerate(runs)),
    ]
    cluster = SimCluster(happenings, physics=Physics(measured_after=30.0))
    store, first = MemoryStore(), standard_scheduler()
    drive(first, cluster, store, cluster, keep_alive=lambda: cluster.num_arrivals > 0)
    assert {status.state for status in first.statuses()} == {RunState.SUCCEEDED}
    journal = list(store.replay())
    assert any(isinstance(event, PaceMeasured) for event in journal)
    second, third = standard_scheduler(), standard_scheduler()
    for event in journal:
        assert second.handle(event) == third.handle(event)
        assert second.next_wakeup == third.next_wakeup
    assert second.statuses() == first.statuses()


def test_a_config_can_choose_every_policy_and_what_each_does_is_told() -> None:
    words = get_args(ClusterModel.model_fields["policy"].annotation)[0]
    assert set(get_args(words)) == {QUEUE, *POLICIES}
    assert set(SUMMARIES) == set(POLICIES)


def test_a_name_that_is_no_policy_means_the_queue() -> None:
    desk = Desk(Scheduler(policies={}))
    desk.node("n", LARGE)
    desk.world.tell(PolicyChanged(at=0.0, name="of-tomorrow"))
    desk.submit(make_spec("r"))
    assert desk.state("r") is RunState.STARTING
