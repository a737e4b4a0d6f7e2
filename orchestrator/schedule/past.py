"""Trials that have succeeded long ago: nothing follows from them, and only their ids are kept.

A driver that stays would hold the record of every trial of every sweep, some kilobytes each. The
store has all of it. What people may go on with (a run that has failed or was cancelled), and what
other runs may come after, stays.
"""

from collections import deque

from orchestrator.messages import AttemptEvent, Event, GangFinished, RunSubmitted
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import RunId, RunState

__all__ = ["Past"]

KEPT = 64  # that have succeeded last: who looks at changes now and then still finds them


class Past:
    """Takes records of sweeps' trials out of `runs`; a fold over events, as all of the state.

    Args:
        runs: All records.
        changed: Runs whose status is still to be told.
    """

    def __init__(self, runs: dict[RunId, RunRecord], changed: dict[RunId, None]) -> None:
        self._runs = runs
        self._changed = changed
        self._recent: deque[RunId] = deque()
        self._ids: set[RunId] = set()  # of those that are gone, so that none begins anew

    def holds(self, event: Event) -> bool:
        """Whether an event is about a run that is gone: it changes nothing."""
        if isinstance(event, RunSubmitted):
            return event.spec.run_id in self._ids
        if isinstance(event, AttemptEvent):
            return event.attempt.run_id in self._ids
        return False  # what people ask of a run that is not there follows from nothing anyway

    def take(self, event: Event) -> None:
        """An event was handled: what ended by it is the past, and the oldest of that goes."""
        if not isinstance(event, GangFinished):
            return
        record = self._runs.get(event.attempt.run_id)
        if record is None or not record.spec.warm or record.state is not RunState.SUCCEEDED:
            return
        if record.spec.run_id not in self._recent:  # else it was told twice
            self._recent.append(record.spec.run_id)
        while len(self._recent) > KEPT:
            run_id = self._recent.popleft()
            del self._runs[run_id]
            self._changed.pop(run_id, None)
            self._ids.add(run_id)
