"""Which run an attempt's event is about, and none where that attempt is over."""

from orchestrator.errors import TransitionError
from orchestrator.messages import AttemptEvent
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.runs import HOLDING, RunRecord

__all__ = ["current"]


def current(life: Lifecycle, event: AttemptEvent) -> RunRecord | None:
    """The record, unless the attempt is an older one or is over: then nothing changes.

    Raises:
        TransitionError: nobody asked for the run, or the attempt has not been ordered yet.
    """
    record = life.runs.get(event.attempt.run_id)
    if record is None or event.attempt.number > record.attempt:
        raise _unknown(life, event, record)
    if event.attempt.number < record.attempt:
        return None
    if record.state not in HOLDING:
        record.move(type(event), record.state, life.now)
        return None
    return record


def _unknown(life: Lifecycle, event: AttemptEvent, record: RunRecord | None) -> TransitionError:
    what = f"{type(event).__name__} of attempt {event.attempt.number}, which was never started"
    if record is not None:
        return record.bug(what, life.now)
    return TransitionError(f"run {event.attempt.run_id} at {life.now:.3f}: {what}")
