"""How much faster a run trains with more cards: measured widths, and a curve between them.

With `w` cards an epoch takes `work / w + sync`: the work is divided, what ranks tell one another
is not (Amdahl's law). So seconds are a straight line over `1 / w`, and between two widths that
were measured they are taken from the line through both. Beyond them the line goes on from the
nearest one with the slope that fits all of them best; with a single width, with the slope at which
`sync` is as large a part of `work` as it usually is: the mean over the kinds of runs of which two
widths were measured, and `ASSUMED_SYNC` as one more of them.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.schedule.forecast import MEMORY, Signature, signature
from orchestrator.types import Pace, RunSpec, Seconds

__all__ = ["Speedups"]

ASSUMED_SYNC = 0.05  # of the work of an epoch; about a third of the speed is lost at 8 cards

Known: TypeAlias = Callable[[RunSpec, int], float]
_Points: TypeAlias = Sequence[tuple[float, Seconds]]  # 1 / width and seconds, the widest first


@dataclass(slots=True)
class _Kind:
    """Runs of one signature: mean seconds of an image by width, and images of an epoch."""

    seconds: dict[int, Seconds] = field(default_factory=dict)
    early: dict[int, Seconds] = field(default_factory=dict)  # by steps, before an epoch is over
    num_images: float = 0.0
    points: list[tuple[float, Seconds]] = field(default_factory=list)

    def add(self, width: int, seconds: Seconds, num_images: int) -> None:
        """Take in one epoch."""
        self._count(num_images)
        self.early.pop(width, None)
        mean = self.seconds.get(width)
        self.seconds[width] = seconds if mean is None else _blend(mean, seconds)
        self._draw()

    def expect(self, width: int, seconds: Seconds, num_images: int) -> None:
        """Take in the pace of steps: without validation, so only until there is an epoch."""
        if width not in self.seconds:
            self._count(num_images)
            self.early[width] = seconds
            self._draw()

    def _count(self, num_images: int) -> None:
        self.num_images = _blend(self.num_images, num_images) if self.num_images else num_images

    def _draw(self) -> None:
        told = self.early | self.seconds
        self.points = sorted((1.0 / width, seconds) for width, seconds in told.items())


@dataclass(slots=True)
class Speedups:
    """A fold over epochs and the widths that they were trained with.

    What is compared is the time of an image: epochs of runs alike need not be equally long.
    `known` answers instead where something is known beforehand, such as measured tables.
    """

    known: Known | None = None
    _kinds: dict[Signature, _Kind] = field(default_factory=dict)
    _syncs: dict[Signature, float] = field(default_factory=dict)  # as parts of the work

    def progressed(self, spec: RunSpec, width: int, seconds: Seconds, num_images: int = 0) -> None:
        """An epoch of so many images took so long with so many cards.

        Where images are not counted (0), an epoch is taken for one.
        """
        if width >= 1 and seconds > 0:
            images = num_images or 1
            self._kind(spec).add(width, seconds / images, images)
            self._fit(spec)

    def measured(self, spec: RunSpec, width: int, pace: Pace) -> None:
        """The first steps of an attempt with so many cards have told its pace."""
        if width >= 1 and pace.seconds > 0:
            images = pace.num_images or 1
            self._kind(spec).expect(width, pace.seconds / images, images)
            self._fit(spec)

    def _kind(self, spec: RunSpec) -> _Kind:
        return self._kinds.setdefault(signature(spec), _Kind())

    def _fit(self, spec: RunSpec) -> None:
        points = self._kind(spec).points
        if len(points) > 1:
            work, sync = _fit(points)
            part = min(max(sync / work, 0.0), 1.0) if work > 0.0 else 1.0
            self._syncs[signature(spec)] = part

    def seconds_of_one(self, spec: RunSpec) -> Seconds | None:
        """Seconds of an epoch on one card, by runs of this kind; None while there were none."""
        kind = self._kinds.get(signature(spec))
        if kind is None:
            return None
        ones = [seconds * self.of(spec, round(1.0 / part)) for part, seconds in kind.points]
        return kind.num_images * sum(ones) / len(ones)

    def of(self, spec: RunSpec, width: int) -> float:
        """How many times faster than one card."""
        if self.known is not None:
            return self.known(spec, width)
        kind, usual = self._kinds.get(signature(spec)), self._usual_sync
        points = kind.points if kind is not None else [(1.0, 1.0)]
        return _at(points, 1, usual) / _at(points, width, usual)

    @property
    def _usual_sync(self) -> float:
        return (ASSUMED_SYNC + sum(self._syncs.values())) / (1 + len(self._syncs))


def _at(points: _Points, width: int, usual_sync: float) -> Seconds:
    """Seconds of an epoch with so many cards."""
    x = 1.0 / width
    at = bisect(points, (x, float("inf")))
    if at and points[at - 1][0] == x:
        return points[at - 1][1]
    if 0 < at < len(points):
        (x0, y0), (x1, y1) = points[at - 1 : at + 1]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    near, seconds = points[0] if at == 0 else points[-1]
    slope = _fit(points)[0] if len(points) > 1 else seconds / (near + usual_sync)
    return max(seconds + max(slope, 0.0) * (x - near), seconds * min(x / near, 1.0))


def _fit(points: _Points) -> tuple[float, float]:
    """Work and sync of the least squares over widths."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    work = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return work, mean_y - work * mean_x


def _blend(mean: float, new: float) -> float:
    return mean * MEMORY + new * (1.0 - MEMORY)
