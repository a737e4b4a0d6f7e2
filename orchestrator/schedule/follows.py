"""What follows from each kind of event, as a table; a change that nobody has to decide on."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.messages import (
    CancelRequested,
    DrainEnded,
    DrainRequested,
    Event,
    GangFailed,
    GangFinished,
    GangStarted,
    GangYielded,
    MicroBatchChanged,
    NodeChanged,
    NodeJoined,
    NodeLost,
    NodeTypesOffered,
    PaceMeasured,
    PlaceMended,
    PolicyChanged,
    PriorityChanged,
    ProgressReported,
    QueueChanged,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
    TimePassed,
)
from orchestrator.schedule import gangs, midway, people, scaling
from orchestrator.schedule.lifecycle import Lifecycle

__all__ = ["FOLLOWS"]


def _nothing(_: Lifecycle, __: Event) -> None:
    """Nothing follows from the event itself; deadlines and the queue are looked at anyway."""


FOLLOWS: Mapping[type[Event], Callable[[Lifecycle, Any], None]] = {
    RunSubmitted: people.submit,
    CancelRequested: people.cancel,
    ResumeRequested: people.resume,
    PriorityChanged: people.reprioritize,
    RunMoved: people.move,
    DrainRequested: people.drain,
    DrainEnded: people.end_drain,
    QueueChanged: people.set_rule,
    PolicyChanged: _nothing,
    PlaceMended: people.mended,
    NodeJoined: scaling.joined,
    NodeChanged: scaling.joined,
    NodeLost: gangs.lost,
    NodeTypesOffered: scaling.offered,
    GangStarted: gangs.started,
    ProgressReported: gangs.progressed,
    PaceMeasured: midway.measured,
    MicroBatchChanged: midway.recut,
    GangYielded: gangs.yielded,
    GangFinished: gangs.finished,
    GangFailed: gangs.failed,
    TimePassed: _nothing,
}
