"""Between two drivers the date may change, and time without a driver is no training time."""

import pytest

from orchestrator.messages import Event, GangStarted, NodeJoined, RunSubmitted, StartGang
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Cause, NodeId, RunState
from tests.schedule.test_scheduler import LARGE, Desk
from tests.strategies import make_node, make_spec

DAY = 86_400.0


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.node("a", LARGE)
    made.node("b", LARGE)
    return made


def restarted(desk: Desk, *, after: float) -> None:
    """Another driver starts on the same journal, and its date is `after` seconds later."""
    desk.world.now += after
    for event in desk.scheduler.orphans(at=desk.world.now):
        desk.world.tell(event)


@pytest.mark.parametrize("jump", [-DAY, -3600.0, -6.0, 0.0])
def test_a_pause_lasts_as_long_as_it_should_when_the_date_was_corrected(
    desk: Desk, jump: float
) -> None:
    desk.submit(make_spec("r"))
    desk.fail("r", Cause.USER_ERROR)
    restarted(desk, after=jump)
    assert desk.scheduler.next_wakeup == pytest.approx(desk.world.now + 10.0)
    desk.node("a", LARGE)
    desk.pass_time(10.0)
    assert desk.where("r") == [("a", 0)]


def test_no_run_takes_negative_time_whatever_its_state_was(desk: Desk) -> None:
    desk.submit(*(make_spec(name, epochs=1) for name in ("waits", "runs", "stopped")))
    desk.up("runs")
    desk.cancel("stopped", now=True)
    desk.pass_time(5.0)
    restarted(desk, after=-DAY)
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    for name in desk.running(("waits", "runs")):
        desk.up(name)
        desk.finish(name)
    for status in desk.scheduler.statuses():
        moments = [status.submitted_at, status.started_at, status.ended_at]
        known = [moment for moment in moments if moment is not None]
        assert known == sorted(known), status
        if status.state is RunState.SUCCEEDED:
            assert status.ended_at is not None
            assert status.ended_at - status.submitted_at == pytest.approx(5.0)


def test_a_start_that_takes_long_is_not_cut_short_by_a_few_seconds_of_disorder(desk: Desk) -> None:
    desk.world.now = 100.0
    desk.submit(make_spec("r"))
    due = desk.scheduler.next_wakeup
    desk.world.now -= 4.0
    desk.submit(make_spec("s"))
    assert desk.scheduler.next_wakeup == due


def test_hours_without_a_driver_are_not_taken_from_the_longest_duration(desk: Desk) -> None:
    desk.submit(make_spec("r", epochs=50, max_duration_seconds=600.0))
    desk.up("r")
    desk.world.now += 100.0
    desk.epoch("r")
    restarted(desk, after=10 * DAY)
    desk.node("a", LARGE)
    desk.up("r")
    assert desk.scheduler.next_wakeup == pytest.approx(desk.world.now + 500.0)


def test_a_new_driver_starts_nothing_before_every_node_of_the_old_one_is_lost() -> None:
    scheduler = Scheduler()
    names = ("a", "b", "c")
    events: list[Event] = [NodeJoined(at=0.0, node=make_node(name, LARGE)) for name in names]
    events += [RunSubmitted(at=1.0, spec=make_spec(f"r{i}")) for i in range(5)]
    for event in events:
        scheduler.handle(event)
    for event in scheduler.orphans(at=2.0):
        assert not [a for a in scheduler.handle(event) if isinstance(a, StartGang)], event
    assert scheduler.nodes() == ()


def test_a_message_that_a_gang_started_may_come_twice(desk: Desk) -> None:
    desk.submit(make_spec("r"))
    desk.up("r")
    before = desk.scheduler.statuses()
    assert desk.world.tell(GangStarted(at=0.0, attempt=desk.attempt("r"))) == ()
    assert desk.scheduler.statuses() == before


def test_nodes_that_were_put_aside_stay_so_for_their_time(desk: Desk) -> None:
    for name in ("x", "y", "z"):
        desk.submit(make_spec(name))
        desk.fail(name, Cause.HANG)
        desk.cancel(name)
    assert desk.scheduler.next_wakeup == 600.0
    restarted(desk, after=-DAY)
    assert desk.scheduler.next_wakeup == pytest.approx(600.0 - DAY)
    desk.node("a", LARGE)
    desk.node("b", LARGE)
    desk.submit(make_spec("r"))
    assert desk.where("r") == [(NodeId("b"), 0)]
