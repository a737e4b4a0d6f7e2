"""Bytes as a function of the micro-batch: what the allocator of one step asks of a card."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["Demand", "Footprint", "Segments"]

_ROUNDING: Bytes = 2 << 20  # 4,096 live blocks, each rounded up to 512 bytes
_TWO_PAGES: Bytes = 40 << 20  # of the allocator's large pool


class Segments(StrEnum):
    """How PyTorch's caching allocator takes memory from the driver."""

    FIXED = "fixed"  # torch's default
    EXPANDABLE = "expandable"  # expandable_segments:True, which workers on Linux are given


# Points within this factor of the micro-batch are looked at, and this multiple of the worst is
# taken. Replays of five real models at every third micro-batch to 128 stayed below.
_SCATTER = {Segments.FIXED: (4, Fraction(3, 2)), Segments.EXPANDABLE: (2, Fraction(5, 4))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a step of `micro_batch` samples asks of PyTorch's caching allocator, in bytes.

    `allocated_bytes` is the peak of live blocks, `reserved_bytes` the peak of segments without a
    limit, and `least_bytes` a limit under which the step still completes, with flushes of the
    cache, and hardly any smaller one does: this decides whether it fits. `reserved_bytes` counts
    what cuDNN copies for its kernels, which it does without under a limit. None of them counts the
    CUDA context, the workspaces of cuBLAS or others of cuDNN, which depend on the card.
    """

    micro_batch: int
    allocated_bytes: Bytes
    reserved_bytes: Bytes
    least_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The demand of a workload at some micro-batches, ascending, and what holds the bytes.

    `parts` splits the peak of `points[-1]` by weights, gradients, optimizer, ema, activations,
    loss, data and workspace; `modules` splits it by module. Each adds up to that peak's allocated
    bytes.
    """

    workload: Workload
    points: tuple[Demand, ...]
    parts: Mapping[str, Bytes] = field(default_factory=dict)
    modules: Mapping[str, Bytes] = field(default_factory=dict)
    segments: Segments = Segments.EXPANDABLE

    def __post_init__(self) -> None:
        batches = [point.micro_batch for point in self.points]
        if not batches or batches[0] < 1 or sorted(set(batches)) != batches:
            raise ValueError(f"a footprint needs ascending micro-batches of 1 or more: {batches}")

    def at(self, micro_batch: int) -> Demand:
        """The demand of that many samples: exact at a point, from above between two points.

        Live bytes are a maximum of straight lines in the micro-batch, hence convex: their chord is
        an upper bound but for the rounding of each block. What fragmentation adds to them is not
        smooth: more is taken than at any point around (`_SCATTER`), and two pages.
        Below the first point the first holds; beyond the last, the last chord goes on.
        """
        points = self.points
        index = bisect_left(points, micro_batch, key=lambda point: point.micro_batch)
        if index < len(points) and points[index].micro_batch == micro_batch:
            return points[index]
        live = self._live(micro_batch, index)
        factor, times = _SCATTER[self.segments]
        near = [
            point
            for point in points
            if point.micro_batch <= factor * micro_batch <= factor**2 * point.micro_batch
        ]
        near = near or [points[min(index, len(points) - 1)]]

        def with_scatter(name: str) -> Bytes:
            extra = max(Fraction(getattr(p, name), p.allocated_bytes) - 1 for p in near)
            return math.ceil(live * (1 + extra * times)) + _TWO_PAGES

        return Demand(
            micro_batch=micro_batch,
            allocated_bytes=live,
            reserved_bytes=with_scatter("reserved_bytes"),
            least_bytes=with_scatter("least_bytes"),
        )

    def _live(self, micro_batch: int, index: int) -> Bytes:
        """Allocated bytes on the chord around that position among the points."""
        first = self.points[0]
        if index == 0 or len(self.points) == 1:
            return first.allocated_bytes * max(1, -(-micro_batch // first.micro_batch))
        index = min(index, len(self.points) - 1)
        low, high = self.points[index - 1], self.points[index]
        share = Fraction(micro_batch - low.micro_batch, high.micro_batch - low.micro_batch)
        rise = (high.allocated_bytes - low.allocated_bytes) * share
        return math.ceil(low.allocated_bytes + rise) + _ROUNDING

    def largest(self, capacity_bytes: Bytes) -> int:
        """The most samples whose `at` stays within the capacity; 0 if not even one fits.

        Never beyond the last point.
        """
        low, high = 0, self.points[-1].micro_batch
        while low < high:
            middle = (low + high + 1) // 2
            if self.at(middle).least_bytes <= capacity_bytes:
                low = middle
            else:
                high = middle - 1
        return low
