"""How much faster a run trains with more cards: measured widths, and a curve between them.

With `w` cards an epoch takes `work / w + sync`: the work is divided, what ranks tell one another
is not (Amdahl's law). Two measured widths give both numbers; with one, `sync` is taken to be
`ASSUMED_SYNC` of the work.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.schedule.forecast import MEMORY, Signature, signature
from orchestrator.types import RunSpec, Seconds

__all__ = ["Speedups"]

ASSUMED_SYNC = 0.05  # of the work of an epoch; about a third of the speed is lost at 8 cards

Known: TypeAlias = Callable[[RunSpec, int], float]


@dataclass(slots=True)
class Speedups:
    """A fold over epochs and the widths that they were trained with.

    `known` answers instead where something is known beforehand, such as measured tables.
    """

    known: Known | None = None
    _seconds: dict[Signature, dict[int, Seconds]] = field(default_factory=dict)

    def progressed(self, spec: RunSpec, width: int, seconds: Seconds) -> None:
        """An epoch took so long with so many cards."""
        if width < 1 or seconds <= 0:
            return
        measured = self._seconds.setdefault(signature(spec), {})
        mean = measured.get(width)
        measured[width] = seconds if mean is None else mean * MEMORY + seconds * (1.0 - MEMORY)

    def seconds_of_one(self, spec: RunSpec) -> Seconds | None:
        """Seconds of an epoch on one card, by runs of this kind; None while there were none."""
        measured = self._seconds.get(signature(spec))
        if not measured:
            return None
        ones = [seconds * self.of(spec, width) for width, seconds in measured.items()]
        return sum(ones) / len(ones)

    def of(self, spec: RunSpec, width: int) -> float:
        """How many times faster than one card; at least 1."""
        if self.known is not None:
            return self.known(spec, width)
        work, sync = _fit(self._seconds.get(signature(spec), {}))
        return (work + sync) / (work / width + sync)


def _fit(measured: dict[int, Seconds]) -> tuple[float, float]:
    """Work and sync of the least squares over widths; a negative one is taken for none."""
    points = [(1.0 / width, seconds) for width, seconds in sorted(measured.items())]
    if len(points) < 2:
        return 1.0, ASSUMED_SYNC
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    work = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    sync = mean_y - work * mean_x
    if work <= 0.0:
        return 1e-9, 1.0  # more cards did not help
    return (work, sync) if sync > 0.0 else (mean_y / mean_x, 0.0)
