"""The moments that the scheduler wants to be woken for; stale ones are skipped."""

import heapq
from collections.abc import Iterator

from orchestrator.schedule.runs import RunRecord
from orchestrator.types import RunId, Seconds

__all__ = ["Timers"]

_LEAST = 256


class Timers:
    """A heap of deadlines. A run has one at most: `record.deadline`; older entries are stale."""

    def __init__(self) -> None:
        self._heap: list[tuple[Seconds, int, RunId, RunRecord]] = []
        self._count = 0
        self._look_at = _LEAST  # entries: then those that are stale go, with what they hold

    def set(self, record: RunRecord, due: Seconds | None) -> None:
        """Give a run its deadline, or none."""
        record.deadline = due
        if due is not None:
            self._count += 1  # ties are broken by age, and records are never compared
            heapq.heappush(self._heap, (due, self._count, record.spec.run_id, record))
            if len(self._heap) > self._look_at:
                self._heap = [entry for entry in self._heap if entry[3].deadline == entry[0]]
                heapq.heapify(self._heap)
                self._look_at = max(_LEAST, 2 * len(self._heap))

    @property
    def next(self) -> Seconds | None:
        """The earliest deadline."""
        heap = self._heap
        while heap:
            due = heap[0][0]
            if heap[0][3].deadline == due:
                return due
            heapq.heappop(heap)
        return None

    def due(self, now: Seconds) -> Iterator[RunRecord]:
        """Runs whose deadline has come, earliest first; each loses it."""
        while (due := self.next) is not None and due <= now:
            record = heapq.heappop(self._heap)[3]
            record.deadline = None
            yield record
