"""Places in the queue that people give, and a driver that is asked to leave."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.messages import (
    DrainEnded,
    DrainRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    KillGang,
    NodeJoined,
    NodeLost,
    PreemptGang,
    RunMoved,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Cause, NodeId, RunId, RunState, StopMode
from tests.schedule.world import World
from tests.strategies import GIB, make_node, make_spec

NODE = make_node("box", ("RTX 2060", 6 * GIB))


def queued(names: str, **priorities: int) -> World:
    world = World(Scheduler())
    for name in names:
        world.tell(RunSubmitted(at=0.0, spec=make_spec(name, priority=priorities.get(name, 50))))
    return world


def move(world: World, name: str, *, before: str | None = None, to_end: bool = False) -> None:
    other = None if before is None else RunId(before)
    world.tell(RunMoved(at=0.0, run_id=RunId(name), before=other, to_end=to_end))


def order(world: World) -> str:
    """The runs as the published rows order them."""
    rows = world.scheduler.statuses()
    return "".join(s.run_id for s in sorted(rows, key=lambda s: (-s.priority, s.order)))


def started(world: World) -> str:
    """The runs in the order in which one card takes them, each to its end."""
    names = ""
    world.tell(NodeJoined(at=0.0, node=NODE))
    while world.gangs:
        attempt = next(iter(world.gangs))
        names += attempt.run_id
        world.tell(GangStarted(at=0.0, attempt=attempt))
        world.tell(GangFinished(at=0.0, attempt=attempt))
    return names


def has_left(world: World) -> bool:
    return world.scheduler.is_drained


def replayed(journal: list[Event]) -> Scheduler:
    again = Scheduler()
    for event in journal:
        again.handle(event)
    return again


def test_a_run_goes_to_the_front_to_the_end_or_before_another() -> None:
    world = queued("abcde")
    move(world, "d")
    assert order(world) == "dabce"
    move(world, "a", to_end=True)
    assert order(world) == "dbcea"
    move(world, "a", before="c")
    assert order(world) == "dbace"
    move(world, "e", before="d")
    assert order(world) == "edbac"
    assert started(world) == "edbac"


def test_a_place_holds_among_runs_of_one_priority_only() -> None:
    world = queued("abxy", x=60, y=60)
    move(world, "b")
    assert order(world) == "xyba"
    move(world, "a", before="x")
    assert order(world) == "xyba", "x goes before it whatever its place"
    move(world, "y", before="x")
    assert order(world) == "yxba"
    assert started(world) == "yxba"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=12))
def test_moves_are_those_of_a_list_and_the_journal_replays_to_them(
    moves: list[tuple[int, int]],
) -> None:
    names = list("abcdef")
    world = queued("abcdef")
    for who, where in moves:
        name = "abcdef"[who]
        other = "abcdef"[where] if where < 6 else None
        move(world, name, before=other, to_end=where == 7)
        if other != name:
            names.remove(name)
            at = len(names) if where == 7 else 0 if other is None else names.index(other)
            names.insert(at, name)
        assert order(world) == "".join(names)
    assert replayed(world.journal).statuses() == world.scheduler.statuses()
    assert started(world) == "".join(names)


def test_a_move_that_cannot_be_changes_nothing() -> None:
    world = queued("ab")
    before = order(world)
    for name, other in (("nobody", "a"), ("a", "nobody"), ("a", "a")):
        move(world, name, before=other)
    assert order(world) == before


def test_a_driver_that_leaves_lets_gangs_save_and_starts_nothing() -> None:
    world = queued("ab")
    world.tell(NodeJoined(at=0.0, node=NODE))
    (attempt,) = world.gangs
    world.tell(GangStarted(at=0.0, attempt=attempt))
    actions = world.tell(DrainRequested(at=1.0))
    assert actions == (PreemptGang(attempt=attempt, mode=StopMode.AFTER_EPOCH),)
    assert not has_left(world)
    assert world.tell(GangYielded(at=2.0, attempt=attempt)) == ()
    assert has_left(world)
    assert [s.state for s in world.scheduler.statuses()] == [RunState.PENDING] * 2


@pytest.mark.parametrize("trainer", ["timm", "yolo"])
def test_gangs_that_keep_what_is_done_of_an_epoch_do_not_make_a_driver_wait(trainer: str) -> None:
    world = World(Scheduler())
    spec = replace(make_spec("a"), trainer=trainer)
    for event in (RunSubmitted(at=0.0, spec=spec), NodeJoined(at=0.0, node=NODE)):
        world.tell(event)
    (attempt,) = world.gangs
    world.tell(GangStarted(at=0.0, attempt=attempt))
    actions = world.tell(DrainRequested(at=1.0))
    assert actions == (PreemptGang(attempt=attempt, mode=StopMode.AT_BATCH),)


def test_a_drain_at_once_kills_and_what_had_not_begun_is_killed_anyway() -> None:
    world = queued("a")
    world.tell(NodeJoined(at=0.0, node=NODE))
    (attempt,) = world.gangs
    assert world.tell(DrainRequested(at=1.0)) == (KillGang(attempt=attempt),)
    assert world.tell(DrainRequested(at=2.0, now=True)) == (KillGang(attempt=attempt),)
    world.tell(GangFailed(at=3.0, attempt=attempt, cause=Cause.KILLED))
    assert world.scheduler.is_drained
    status = world.scheduler.status(RunId("a"))
    assert (status.state, status.cause) == (RunState.PENDING, None)


def test_the_next_driver_goes_on_with_what_was_drained() -> None:
    world = queued("ab")
    world.tell(NodeJoined(at=0.0, node=NODE))
    (attempt,) = world.gangs
    world.tell(DrainRequested(at=1.0, now=True))
    world.tell(GangFailed(at=2.0, attempt=attempt, cause=Cause.KILLED))
    orphans = world.scheduler.orphans(at=3.0)
    gone = NodeLost(at=2.0, node_id=NodeId("box"))  # with the last driver
    assert orphans == (gone, DrainEnded(at=3.0))
    for event in orphans:
        assert world.tell(event) == ()
    (start,) = world.tell(NodeJoined(at=4.0, node=NODE))
    assert isinstance(start, StartGang)
    assert start.attempt.run_id == "a"
    assert replayed(world.journal).statuses() == world.scheduler.statuses()
