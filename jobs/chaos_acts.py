"""What a drill on two nodes does to its driver, its workers, its nodes and its head."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import psutil

from jobs.chaos_drill import Drill
from jobs.doom import Point
from orchestrator.messages import (
    AttemptEvent,
    CancelRequested,
    DrainRequested,
    Event,
    GangFailed,
    GangStarted,
    NodeLost,
    PlaceMended,
    PolicyChanged,
    PriorityChanged,
    ProgressReported,
    QueueChanged,
    ResumeRequested,
    RunMoved,
)
from orchestrator.types import AttemptId, NodeId, QueueRule, RunId, RunState

__all__ = ["ACTS", "KINDS", "die_at", "has_ended"]

_TRIES = 3  # a driver may have ended all its work before it came to its point

_WISHES: Mapping[str, Callable[[float, RunId], Event]] = {
    "PriorityChanged": lambda at, run_id: PriorityChanged(at=at, run_id=run_id, priority=60),
    "RunMoved": lambda at, run_id: RunMoved(at=at, run_id=run_id),
    "QueueChanged": lambda at, _: QueueChanged(at=at, rule=QueueRule(name="default", weight=2.0)),
    "PolicyChanged": lambda at, _: PolicyChanged(at=at, name="queue"),
    "PlaceMended": lambda at, _: PlaceMended(at=at, node_id=NodeId("any")),
    "CancelRequested": lambda at, run_id: CancelRequested(at=at, run_id=run_id),
    "GangYielded": lambda at, run_id: CancelRequested(at=at, run_id=run_id),
    "DrainRequested": lambda at, _: DrainRequested(at=at),
    "DrainEnded": lambda at, _: DrainRequested(at=at),
}
_BY_THEMSELVES = (
    *("RunSubmitted", "NodeJoined", "NodeLost", "GangStarted", "ProgressReported"),
    *("GangFailed", "GangFinished", "TimePassed"),
)
KINDS = (*_BY_THEMSELVES, *_WISHES, "ResumeRequested")
"""The kinds of events that a drill lets a driver die of: all but those of a changed card or cut."""


def die_at(drill: Drill, point: Point) -> None:
    """Let a driver die at its point; where it ends its work before, another one gets more."""
    for _ in range(_TRIES):
        if point.kind in ("NodeLost", "GangFailed"):  # the next driver closes what this one leaves
            _ready(drill)
        if drill.has_driver():
            drill.kill_driver()
        _give_work(drill, is_new=point.kind in ("RunSubmitted", "TimePassed"))
        if point.kind == "DrainEnded":
            _leave_draining(drill)
        drill.start_driver(point)
        _provoke(drill, point)
        drill.until(f"a driver comes to {point}", lambda: not drill.has_driver())
        assert drill.driver is not None
        if drill.driver.poll() == -signal.SIGKILL:
            drill.driver_died(f"driver, {point.moment}")
            return
    drill.hangs.append(f"no driver came to {point}")


def _give_work(drill: Drill, *, is_new: bool = False) -> None:
    stopped = [s.run_id for s in drill.statuses() if s.state is RunState.CANCELLED]
    drill.ask(*(ResumeRequested(at=time.time(), run_id=run_id) for run_id in stopped))
    if is_new or len(drill.unfinished()) < 4:
        drill.submit_round()


def _provoke(drill: Drill, point: Point) -> None:
    """Ask for what makes the event happen, once something trains."""
    if point.kind in _BY_THEMSELVES or point.kind == "DrainEnded" or not _trains(drill):
        return
    run_id = drill.running()[0].run_id if drill.running() else drill.asked[-1]
    if point.kind == "ResumeRequested":
        drill.ask(CancelRequested(at=time.time(), run_id=run_id, now=True))
        drill.until("a run is cancelled", lambda: _is_cancelled(drill, run_id))
        drill.ask(ResumeRequested(at=time.time(), run_id=run_id))
    else:
        drill.ask(_WISHES[point.kind](time.time(), run_id))


def _leave_draining(drill: Drill) -> None:
    """Let a driver be killed while it drains, so that the next one ends the drain."""
    drill.start_driver(Point("DrainRequested", "acted"))
    if _trains(drill):
        drill.ask(DrainRequested(at=time.time()))
    drill.until("a driver dies draining", lambda: not drill.has_driver())
    drill.driver_died("driver, acted")


def _is_cancelled(drill: Drill, run_id: RunId) -> bool:
    states = {s.run_id: s.state for s in drill.statuses()}
    return states.get(run_id) in (RunState.CANCELLED, RunState.SUCCEEDED) or not drill.has_driver()


def _trains(drill: Drill) -> bool:
    """Wait until a run trains; False when the driver ends before."""

    def is_so() -> bool:
        return bool(drill.running() and drill.nodes.trainers()) or not drill.has_driver()

    return drill.until("something trains", is_so) and drill.has_driver()


def _ready(drill: Drill) -> None:
    """Have a driver that has something to train."""
    for _ in range(_TRIES):
        _give_work(drill)
        if not drill.has_driver():
            drill.start_driver()
        if _trains(drill):
            return


def _one_that_trains(drill: Drill) -> tuple[psutil.Process, AttemptId] | None:
    """A worker with its attempt, which the journal says is under way."""
    _ready(drill)
    found: list[tuple[psutil.Process, AttemptId]] = []

    def is_there() -> bool:
        for worker in drill.nodes.trainers():
            found.extend((worker, attempt) for attempt in _attempts(drill, [worker]))
        return bool(found) or not drill.has_driver()

    drill.until("a worker's attempt is under way", is_there)
    return found[0] if found else None


def _kill_worker(drill: Drill) -> None:
    """Kill a worker that trains."""
    if one := _one_that_trains(drill):
        worker, attempt = one
        worker.kill()
        drill.doom(worker)
        drill.note("worker", attempt)


def _kill_node(drill: Drill) -> None:
    """Kill the node process of the second node, then bring another node."""
    raylet, workers = _second_node(drill)
    attempts = _attempts(drill, workers)
    before = _num_lost(drill)
    raylet.kill()
    drill.doom(raylet, *workers)
    drill.note("raylet", *attempts)
    drill.until("a node is lost", lambda: _num_lost(drill) > before or not drill.has_driver())
    drill.nodes.add()


def _kill_head_node(drill: Drill) -> None:
    """Kill the head's node process, which the driver is attached to; then start a Ray anew."""
    _ready(drill)
    _lose_ray(drill, drill.nodes.raylets[0], "raylet of the head")


def _kill_head(drill: Drill) -> None:
    """Kill the head's control process; then start a Ray anew."""
    _ready(drill)
    assert drill.nodes.control is not None
    _lose_ray(drill, drill.nodes.control, "head (GCS)")


def _lose_ray(drill: Drill, process: psutil.Process, kind: str) -> None:
    attempts = _attempts(drill, drill.nodes.trainers())
    process.kill()
    drill.note(kind, *attempts)
    drill.doom(*drill.nodes.workers(), process)
    drill.until(f"a driver ends without its {kind}", lambda: not drill.has_driver())
    if drill.has_driver():
        drill.kill_driver()
    drill.nodes.end()
    drill.nodes.start()
    drill.start_driver()


def _freeze_worker(drill: Drill) -> None:
    """Stop a worker until its attempt counts as hung, then let it go on."""
    if one := _one_that_trains(drill):
        worker, attempt = one
        worker.suspend()
        drill.note("worker stopped", attempt)
        drill.until(f"{attempt} counts as hung", partial(_is_over, drill, attempt))
        with suppress(psutil.NoSuchProcess):
            worker.resume()
        drill.doom(worker)
        drill.frozen.append(attempt)


def _freeze_node(drill: Drill) -> None:
    """Stop a node until it counts as lost; let its workers go on: nobody listens to them."""
    raylet, workers = _second_node(drill)
    attempts = _attempts(drill, workers)
    for each in (raylet, *workers):
        each.suspend()
    drill.note("node stopped", *attempts)
    drill.until(
        "a stopped node is lost",
        lambda: all(_is_over(drill, attempt) for attempt in attempts) or not drill.has_driver(),
    )
    known = {attempt: _recorded(drill, attempt) for attempt in attempts}
    for each in workers:
        with suppress(psutil.NoSuchProcess):
            each.resume()
    drill.frozen += attempts
    num = len(drill.hangs)
    drill.until(
        "a zombie writes on", lambda: any(n > 1 for n in _beyond(drill, known).values()), 8.0
    )
    del drill.hangs[num:]  # that is as it should be
    drill.zombie_checkpoints.update(_beyond(drill, known))
    with suppress(psutil.NoSuchProcess):
        raylet.resume()
    drill.doom(raylet, *workers)
    drill.nodes.add()


def _second_node(drill: Drill) -> tuple[psutil.Process, list[psutil.Process]]:
    """The second node with its workers, once one of them trains."""
    _ready(drill)

    def trains_there() -> bool:
        return bool(_attempts(drill, drill.nodes.trainers(drill.nodes.second())))

    num = len(drill.hangs)
    for _ in range(_TRIES):
        if drill.until("the second node trains", trains_there, 5.0):
            break
        drill.submit_round()
        _ready(drill)
    else:
        raise RuntimeError("nothing trains on the second node")
    del drill.hangs[num:]
    raylet = drill.nodes.second()
    return raylet, drill.nodes.trainers(raylet)


def _attempts(drill: Drill, workers: Sequence[psutil.Process]) -> tuple[AttemptId, ...]:
    """What the workers run that has not ended."""
    found = [drill.attempt_of(worker) for worker in workers]
    return tuple(a for a in found if a is not None and not _is_over(drill, a))


def has_ended(event: Event) -> bool:
    """True for an event after which an attempt says no more."""
    ends = isinstance(event, AttemptEvent) and not isinstance(event, GangStarted | ProgressReported)
    return ends and type(event).__name__ in ("GangFailed", "GangFinished", "GangYielded")


def _is_over(drill: Drill, attempt: AttemptId) -> bool:
    """True when the journal has the end of an attempt, or a newer one of its run."""
    for event in reversed(drill.events()):
        if isinstance(event, AttemptEvent) and event.attempt.run_id == attempt.run_id:
            if event.attempt == attempt:
                return has_ended(event)
            if event.attempt.number > attempt.number:
                return True
    return False


def _recorded(drill: Drill, attempt: AttemptId) -> int:
    told = [e for e in drill.events() if isinstance(e, ProgressReported) and e.attempt == attempt]
    return max((event.progress.epoch for event in told), default=0)


def _beyond(drill: Drill, known: Mapping[AttemptId, int]) -> dict[AttemptId, int]:
    """How many checkpoints each attempt has written that the journal does not have; all counted."""
    found: dict[AttemptId, int] = {}
    for attempt, last in known.items():
        folder = drill.home / "runs" / attempt.run_id / "checkpoints" / str(attempt.number)
        epochs = [int(file.name[6:10]) for file in folder.glob("epoch-*.ckpt")]
        found[attempt] = sum(epoch > last for epoch in epochs)
    return found


def _num_lost(drill: Drill) -> int:
    return sum(isinstance(event, NodeLost | GangFailed) for event in drill.events())


ACTS: Mapping[str, Callable[[Drill], None]] = {
    "worker": _kill_worker,
    "raylet": _kill_node,
    "head-raylet": _kill_head_node,
    "head": _kill_head,
    "stop-worker": _freeze_worker,
    "stop-node": _freeze_node,
}
