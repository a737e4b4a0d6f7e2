"""The speed of measured applications: step time by placement, progress by batch and epoch.

Tables and formulas are those of the simulator of Pollux (Qiao et al., OSDI 2021): step times of six
applications by GPUs per node and local batch, and by epoch the statistics of the gradient. Nothing
here knows of rounds or policies: an application tells, for GPUs per node, a batch and an epoch,
how much progress a second brings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from orchestrator.types import Seconds

__all__ = [
    "Application",
    "ApplicationTables",
    "Epochs",
    "Moments",
    "Shape",
    "Split",
    "StepTime",
    "packed_shape",
]

Shape: TypeAlias = tuple[int, ...]  # GPUs on each node, e.g. (4, 2)
Floats: TypeAlias = Any  # numpy.ndarray of float64

_EPSILON = 1e-8  # so that a quotient that is whole but for rounding is not rounded up
_CANDIDATES = 50  # batches looked at between the least and the largest, in geometric steps
_MOST_NODES = 16  # measurements end there


class StepTime(NamedTuple):
    """Seconds of one forward and backward pass with synchronization, and of the latter alone."""

    step: Seconds
    sync: Seconds


class Split(NamedTuple):
    """How one optimizer step is cut on each GPU: samples of a pass, and passes beyond the first."""

    local_batch: int
    extra_passes: int


class Moments(NamedTuple):
    """Squared norm of the mean gradient, and its variance, both at the starting batch's scale."""

    sqr: float
    var: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """What was measured by epoch at one batch; every tuple has an entry for each epoch.

    `progress` and `iteration` count from the start to the end of the epoch.
    """

    progress: tuple[float, ...]
    iteration: tuple[float, ...]
    moments: tuple[Moments, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationTables:
    """The measurements of one application.

    `placements` maps GPUs per node to (local batch, step time) rows; `scalability` holds (nodes,
    GPUs, local batch) rows of larger ones; `epochs` is by batch.
    """

    placements: Mapping[Shape, Mapping[int, StepTime]]
    scalability: Mapping[tuple[int, int, int], StepTime]
    epochs: Mapping[int, Epochs]


def packed_shape(num_gpus: int, gpus_per_node: int) -> Shape:
    """GPUs per node on the fewest nodes, the rest on the last."""
    full, rest = divmod(num_gpus, gpus_per_node)
    return (gpus_per_node,) * full + ((rest,) if rest else ())


def _smallest_rotation(shape: Shape) -> Shape:
    return min(shape[at:] + shape[:at] for at in range(len(shape)))


class Application:
    """One application: its limits, its epochs, and what a second brings.

    Args:
        name: Of the application.
        tables: Its measurements.
        num_epochs: Epochs to run; it is complete when it passes the last one.
        most_local: Largest batch of one GPU's pass where it is less than the largest measured.
    """

    def __init__(
        self, name: str, tables: ApplicationTables, num_epochs: int, most_local: int | None = None
    ) -> None:
        self.name = name
        self.tables = tables
        self.num_epochs = num_epochs
        self.batches = tuple(sorted(tables.epochs))
        locals_ = [size for rows in tables.placements.values() for size in rows]
        self.least_local = min(locals_)
        self.most_local = most_local or max(locals_)
        self.epoch_ends = tuple(
            min(each.progress[epoch] for each in tables.epochs.values())
            for epoch in range(num_epochs)
        )
        self.step_time = cache(self._step_time)
        self.rate = cache(self._rate)
        self.best_batch = cache(self._best_batch)
        self._candidates = cache(self._measured_candidates)

    @property
    def least_batch(self) -> int:
        """The starting batch."""
        return self.batches[0]

    @property
    def most_batch(self) -> int:
        """The largest batch that was measured."""
        return self.batches[-1]

    def most_gpus(self, batch: int) -> int:
        """GPUs that still get the least local batch each."""
        return batch // self.least_local

    def split(self, batch: int, num_gpus: int) -> Split:
        """How a batch is cut; the batch trained may be larger by what rounding up adds.

        On one GPU a batch beyond the starting one takes at least two passes: the statistics of the
        gradient come from the difference between passes.
        """
        rank = math.ceil(batch / num_gpus - _EPSILON)
        extra = math.ceil(rank / self.most_local - _EPSILON) - 1
        if num_gpus == 1 and batch > self.least_batch:
            extra = max(1, extra)
        local = math.ceil(rank / (extra + 1) - _EPSILON)
        return Split(min(local, self.most_batch // (num_gpus * (extra + 1))), extra)

    def moments(self, batch: int, epoch: int) -> Moments:
        """Statistics of the gradient, linear between neighbouring measured batches."""
        low, high, share = self._neighbours(batch)
        one, two = (self.tables.epochs[each].moments[epoch] for each in (low, high))
        return Moments(*((1 - share) * a + share * b for a, b in zip(one, two, strict=True)))

    def iterations(self, batch: int, epoch: int) -> float:
        """Optimizer steps at this batch from the start to the end of an epoch (from 0)."""
        low, high, share = self._neighbours(batch)
        one, two = (self.tables.epochs[each].iteration[epoch] for each in (low, high))
        return (1 - share) * one + share * two

    def gain(self, batch: int, moments: Moments) -> float:
        """Progress of one optimizer step, in steps of the starting batch.

        (var + sqr) / (var / scale + sqr) with scale = batch / starting batch: Pollux, section 3.1.
        """
        scale = batch / self.least_batch
        return (moments.var + moments.sqr) / (moments.var / scale + moments.sqr)

    def _neighbours(self, batch: int) -> tuple[int, int, float]:
        low = max(each for each in self.batches if each <= batch)
        high = min(each for each in self.batches if each >= batch)
        return low, high, (batch - low) / (high - low) if high > low else 0.0

    def _step_time(self, shape: Shape, local_batch: int) -> StepTime | None:
        """Seconds of one pass, or None outside of what was measured.

        Args:
            shape: GPUs on each node, none of them 0.
            local_batch: Samples of a pass on each GPU.
        """
        step, sync = self._step_times(shape, np.asarray([float(local_batch)]))
        return None if math.isnan(step[0]) else StepTime(float(step[0]), float(sync[0]))

    def _rate(self, shape: Shape, batch: int, epoch: int) -> float:
        """Progress a second; 0.0 where the placement was not measured at this batch.

        Args:
            shape: GPUs on each node, none of them 0.
            batch: Samples of an optimizer step, as asked for.
            epoch: From 0.
        """
        local, extra = self.split(batch, sum(shape))
        seconds = self.step_time(shape, local) if local >= self.least_local else None
        if seconds is None:
            return 0.0
        trained = sum(shape) * local * (extra + 1)
        gain = self.gain(trained, self.moments(trained, epoch))
        return gain / (seconds.step + extra * (seconds.step - seconds.sync))

    def _best_batch(self, shape: Shape, moments: Moments) -> tuple[int, float]:
        """The batch with the most progress a second, and that progress.

        Args:
            shape: GPUs on each node.
            moments: Statistics of the gradient as last seen; they are taken for every batch.

        Returns:
            Batch and rate; (starting batch, 0.0) where no batch was measured on this placement.
        """
        asked, trained, seconds = self._candidates(shape)
        if not len(asked):
            return self.least_batch, 0.0
        scale = trained / self.least_batch
        rates = (moments.var + moments.sqr) / (moments.var / scale + moments.sqr) / seconds
        best = int(np.argmax(rates))
        return int(asked[best]), float(rates[best])

    def _measured_candidates(self, shape: Shape) -> tuple[Floats, Floats, Floats]:
        """Batches that may be asked for, what is then trained, and seconds of that step."""
        num_gpus = sum(shape)
        least = max(self.least_batch, self.least_local * num_gpus)
        if least > self.most_batch:
            return np.empty(0), np.empty(0), np.empty(0)
        sizes = sorted({math.ceil(size - _EPSILON)
                        for size in np.geomspace(least, self.most_batch, _CANDIDATES)})  # fmt: skip
        splits = np.asarray([self.split(size, num_gpus) for size in sizes], dtype=float)
        step, sync = self._step_times(shape, splits[:, 0])
        seconds = step + splits[:, 1] * (step - sync)
        trained = num_gpus * splits[:, 0] * (splits[:, 1] + 1)
        fits = (splits[:, 0] >= self.least_local) & ~np.isnan(seconds)
        return np.asarray(sizes)[fits], trained[fits], seconds[fits]

    def _step_times(self, shape: Shape, local_batches: Floats) -> tuple[Floats, Floats]:
        """Linear in the local batch where the placement was measured, else in all three."""
        rows = self.tables.placements.get(_smallest_rotation(shape))
        if rows is not None:
            sizes = sorted(rows)
            step, sync = (
                np.interp(local_batches, sizes, [rows[size][at] for size in sizes],
                          left=math.nan, right=math.nan)
                for at in (0, 1)
            )  # fmt: skip
            return step, sync
        nodes = float(min(len(shape), _MOST_NODES))
        points = [(nodes, float(sum(shape)), size) for size in local_batches]
        found = self._between(points)
        return found[:, 0], found[:, 1]

    @cached_property
    def _between(self) -> Any:
        from scipy.interpolate import LinearNDInterpolator

        groups: dict[tuple[int, int, int], list[StepTime]] = {}
        for shape, rows in self.tables.placements.items():
            for size, seconds in rows.items():
                groups.setdefault((len(shape), sum(shape), size), []).append(seconds)
        points = [*sorted(groups), *self.tables.scalability]
        values = [_mean(groups[key]) for key in sorted(groups)]
        values += list(self.tables.scalability.values())
        return LinearNDInterpolator(np.asarray(points, dtype=float), np.asarray(values))


def _mean(times: Sequence[StepTime]) -> StepTime:
    return StepTime(
        math.fsum(each.step for each in times) / len(times),
        math.fsum(each.sync for each in times) / len(times),
    )
