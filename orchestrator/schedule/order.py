"""Who goes first and who leaves first: the queue by priority and age, and the order of eviction."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from orchestrator.schedule.asks import Ask, Route
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import RunId, RunState

__all__ = ["EvictionOrder", "Queue", "Shape"]

_EVICTABLE = frozenset({RunState.STARTING, RunState.RUNNING})


@dataclass(slots=True, eq=False)
class Shape:
    """All waiting runs of a queue with one ask: when the first does not fit, none of them does."""

    ask: Ask
    queue: str
    waiting: list[tuple[int, int, RunId]] = field(default_factory=list)  # sorted: first goes first
    is_blocked: bool = False  # room can only be on nodes that have grown
    hopeless_priority: int | None = None  # at this priority nobody could be asked to leave
    patience: dict[int, int] = field(default_factory=dict)  # priority -> `Reach.not_before`
    route: Route | None = None  # asked once, and again when nodes change

    def forget(self) -> None:
        """Drop what is known: the next look is a full one."""
        self.is_blocked, self.hopeless_priority = False, None
        self.patience.clear()


class Queue:
    """Runs that wait for room, higher priority first, then in the order of submission."""

    def __init__(self) -> None:
        self.shapes: dict[tuple[str, Ask], Shape] = {}
        self.is_fresh = False  # something joined that has not been looked at

    def add(self, record: RunRecord) -> None:
        """Let a run wait."""
        key = (record.spec.queue, record.ask)
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = Shape(record.ask, record.spec.queue)
        entry = _entry(record)
        insort(shape.waiting, entry)
        if shape.waiting[0] is entry:
            shape.is_blocked = False  # rooms kept for others may be open to this one
            self.is_fresh = True
        elif not shape.is_blocked:
            self.is_fresh = True

    def remove(self, record: RunRecord) -> None:
        """Take a run out; nothing happens when it does not wait."""
        key = (record.spec.queue, record.ask)
        shape = self.shapes.get(key)
        entry = _entry(record)
        if shape is None:
            return
        at = bisect_left(shape.waiting, entry)
        if at < len(shape.waiting) and shape.waiting[at] == entry:
            del shape.waiting[at]
            if not shape.waiting:
                del self.shapes[key]

    def forget(self) -> None:
        """Look at everything again: the order has changed."""
        for shape in self.shapes.values():
            shape.forget()
        self.is_fresh = True

    def position(self, record: RunRecord) -> int:
        """How many waiting runs go before this one."""
        entry = _entry(record)
        return sum(bisect_left(shape.waiting, entry) for shape in self.shapes.values())


class EvictionOrder:
    """Gangs that may be asked to leave: the lowest priority first, of these the newest.

    Args:
        is_allowed: Without it nobody is ever asked to leave.
    """

    def __init__(self, *, is_allowed: bool) -> None:
        self.is_allowed = is_allowed
        self._entries: list[tuple[int, int, RunId]] = []

    def add(self, record: RunRecord) -> None:
        """A gang was started."""
        insort(self._entries, _eviction_entry(record))

    def remove(self, record: RunRecord) -> None:
        """A gang leaves, or has left; nothing happens when that is known."""
        entry = _eviction_entry(record)
        at = bisect_left(self._entries, entry)
        if at < len(self._entries) and self._entries[at] == entry:
            del self._entries[at]

    def below(self, priority: int) -> Iterator[RunId]:
        """Gangs of a lower priority, in the order in which they would leave."""
        for lower, _, run_id in self._entries:
            if lower >= priority or not self.is_allowed:
                return
            yield run_id

    def has_below(self, priority: int) -> bool:
        """True when some gang may be asked to leave for a run of this priority."""
        return self.is_allowed and bool(self._entries) and self._entries[0][0] < priority

    def order_of(self, records: Iterable[RunRecord], *, below: int) -> list[RunId]:
        """Those of a lower priority, in the order in which they would be asked to leave."""
        if not self.is_allowed or not self._entries or self._entries[0][0] >= below:
            return []
        able = [r for r in records if r.priority < below and r.state in _EVICTABLE]
        return [r.spec.run_id for r in sorted(able, key=_eviction_entry)]


def _entry(record: RunRecord) -> tuple[int, int, RunId]:
    return (-record.priority, record.order, record.spec.run_id)


def _eviction_entry(record: RunRecord) -> tuple[int, int, RunId]:
    return (record.priority, -record.start_order, record.spec.run_id)
