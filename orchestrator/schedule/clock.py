"""Time as the events tell it: it goes forward, unless the clock itself was set back."""

from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.types import RunState, Seconds

__all__ = ["pass_time"]

SET_BACK_SECONDS = 5.0  # events that crossed on their way are less apart: one clock stamps all


def pass_time(life: Lifecycle, at: Seconds) -> None:
    """Go on to the moment of an event.

    A driver reads the date once, when it starts, and then counts seconds. So between two drivers
    the date may have been corrected: everything that is measured from or to a moment moves with
    it, or a pause of ten seconds would last as long as the correction.
    """
    back = life.now - at
    if back > SET_BACK_SECONDS:
        _set_back(life, back)
    life.now = max(life.now, at)


def _set_back(life: Lifecycle, seconds: Seconds) -> None:
    life.now -= seconds
    life.health.set_back(seconds)
    life.fair.set_back(seconds)
    life.forecasts.set_back(seconds)
    life.router.offers.set_back(seconds)
    for record in life.runs.values():
        if record.state is RunState.SUCCEEDED:
            continue  # the others may still go on
        record.submitted_at -= seconds
        record.queued_at -= seconds
        if record.first_started_at is not None:
            record.first_started_at -= seconds
        if record.attempt_started_at is not None:
            record.attempt_started_at -= seconds
        if record.deadline is not None:
            life.timers.set(record, record.deadline - seconds)
        if record.ended_at is not None:
            record.ended_at -= seconds
        life.changed[record.spec.run_id] = None
