"""Trials that have succeeded long ago are left to the store, and nothing else changes by it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from orchestrator.messages import (
    CancelRequested,
    Event,
    GangFinished,
    GangStarted,
    NodeJoined,
    ResumeRequested,
    RunSubmitted,
    StartGang,
)
from orchestrator.schedule.past import KEPT
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import AttemptId, RunId, RunSpec, RunState
from tests.strategies import make_node, make_spec

GIB = 1 << 30
NUM = KEPT + 10


def trial(number: int, warm: str = "night") -> RunSpec:
    return replace(make_spec(f"r{number}", gib=1), warm=warm)


def trained(specs: list[RunSpec]) -> Iterator[Event]:
    yield NodeJoined(at=0.0, node=make_node("n", ("RTX 2060", 6 * GIB)))
    for at, spec in enumerate(specs):
        attempt = AttemptId(run_id=spec.run_id, number=1)
        yield RunSubmitted(at=float(at), spec=spec)
        yield GangStarted(at=float(at), attempt=attempt, pids=(1,))
        yield GangFinished(at=float(at), attempt=attempt)


def after(specs: list[RunSpec], *, forgets: bool = True) -> Scheduler:
    scheduler = Scheduler(forgets=forgets)
    for event in trained(specs):
        scheduler.handle(event)
        scheduler.check()
    return scheduler


def test_the_newest_are_kept_and_nothing_of_the_others() -> None:
    specs = [trial(number) for number in range(NUM)]
    scheduler = after(specs)
    assert [s.run_id for s in scheduler.statuses()] == [s.run_id for s in specs[-KEPT:]]
    assert [scheduler.knows(spec.run_id) for spec in specs] == [False] * 10 + [True] * KEPT
    assert [s.run_id for s in scheduler.drain_changes()] == [s.run_id for s in specs[-KEPT:]]
    assert scheduler.is_idle


@pytest.mark.parametrize(("warm", "forgets"), [("", True), ("night", False)])
def test_other_runs_and_who_does_not_forget_keep_all(*, warm: str, forgets: bool) -> None:
    scheduler = after([trial(number, warm) for number in range(NUM)], forgets=forgets)
    assert len(scheduler.statuses()) == NUM


def test_one_that_is_gone_never_begins_anew() -> None:
    specs = [trial(number) for number in range(NUM)]
    scheduler = after(specs)
    gone = specs[0].run_id
    before = scheduler.statuses()
    for event in (
        RunSubmitted(at=1e3, spec=specs[0]),
        ResumeRequested(at=1e3, run_id=gone),
        CancelRequested(at=1e3, run_id=gone, now=True),
        GangFinished(at=1e3, attempt=AttemptId(run_id=gone, number=1)),
    ):
        assert not [a for a in scheduler.handle(event) if isinstance(a, StartGang)]
        scheduler.check()
    assert scheduler.statuses() == before


def test_one_that_was_cancelled_stays_and_can_go_on() -> None:
    scheduler = Scheduler()
    scheduler.handle(RunSubmitted(at=0.0, spec=trial(-1)))
    scheduler.handle(CancelRequested(at=0.0, run_id=RunId("r-1"), now=True))
    for event in trained([trial(number) for number in range(NUM)]):
        scheduler.handle(event)
    assert scheduler.status(RunId("r-1")).state is RunState.CANCELLED
    actions = scheduler.handle(ResumeRequested(at=1e3, run_id=RunId("r-1")))
    assert [a.spec.run_id for a in actions if isinstance(a, StartGang)] == ["r-1"]


def test_told_twice_is_counted_once() -> None:
    specs = [trial(number) for number in range(KEPT)]
    scheduler = after(specs)
    for spec in specs:
        scheduler.handle(GangFinished(at=1e3, attempt=AttemptId(run_id=spec.run_id, number=1)))
    assert len(scheduler.statuses()) == KEPT


def test_a_replay_forgets_the_same() -> None:
    specs = [trial(number) for number in range(NUM)]
    assert after(specs).statuses() == after(specs).statuses()
    kept = after(specs, forgets=False).statuses()
    assert after(specs).statuses() == kept[-KEPT:]


def test_moments_that_nobody_waits_for_any_more_hold_no_runs() -> None:
    scheduler = after([trial(number) for number in range(600)])
    assert scheduler.next_wakeup is None
    assert len(scheduler._life.timers._heap) <= 256
