"""What a driver tells people beside its events: why runs wait, and how the whole stands."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from orchestrator.messages import (
    AttemptEvent,
    Event,
    GangFailed,
    PlaceMended,
    QueueChanged,
    RunSubmitted,
    TimePassed,
)
from orchestrator.ports import Store
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.standing import STANDING, Standing, standing
from orchestrator.types import PendingReason, RunId, RunState, RunStatus, Seconds

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["board", "reasons", "run_of"]

_EVERY: Seconds = 2.0  # what queues have had changes all the time
_AT_ONCE = (GangFailed, PlaceMended, QueueChanged, TimePassed)  # a place may be shut or opened


def reasons(store: Store) -> Callable[[Event, Sequence[RunStatus]], None]:
    """A listener that publishes why runs wait when that changes, without a change of state."""
    told: dict[RunId, PendingReason | None] = {}

    def listen(event: Event, statuses: Sequence[RunStatus]) -> None:
        waiting = [status for status in statuses if status.state is RunState.PENDING]
        own = run_of(event)
        for status in waiting:  # the driver has just published the run of the event as it is
            if status.run_id == own and status.reason is not PendingReason.NOT_EVALUATED:
                told[status.run_id] = status.reason
        for status in statuses:
            if status.state.is_terminal:
                told.pop(status.run_id, None)
        news = [s for s in waiting if told.get(s.run_id, s) != s.reason]
        told.update((status.run_id, status.reason) for status in news)
        if news:
            store.publish(news)

    return listen


def board(scheduler: Scheduler, store: "SqlStore") -> Callable[[Event, Sequence[RunStatus]], None]:
    """A listener that puts up how the whole stands, when that changes and not too often."""
    told: Standing | None = None
    not_before = float("-inf")

    def listen(event: Event, _: Sequence[RunStatus]) -> None:
        nonlocal told, not_before
        if event.is_volatile or (event.at < not_before and not isinstance(event, _AT_ONCE)):
            return
        not_before = event.at + _EVERY
        now = standing(scheduler, event.at)
        if now != told:
            told = now
            store.put_up(STANDING, now)

    return listen


def run_of(event: Event) -> RunId | None:
    """The run that an event is about, if it is about one."""
    if isinstance(event, RunSubmitted):
        return event.spec.run_id
    if isinstance(event, AttemptEvent):
        return event.attempt.run_id
    return getattr(event, "run_id", None)
