"""Bytes as a function of the micro-batch: what the allocator of one step asks of a card."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["Demand", "Footprint", "Segments"]


class Segments(StrEnum):
    """How PyTorch's caching allocator takes memory from the driver."""

    FIXED = "fixed"  # torch's default
    EXPANDABLE = "expandable"  # expandable_segments:True, which workers on Linux are given


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a step of `micro_batch` samples asks of PyTorch's caching allocator, in bytes.

    `allocated_bytes` is the peak of live blocks, `reserved_bytes` the peak of segments without a
    limit, and `least_bytes` a limit under which the step still completes, with flushes of the
    cache, and hardly any smaller one does: this decides whether it fits. None of them counts the
    CUDA context or the workspaces of cuBLAS and cuDNN, which depend on the card.
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
    bytes. `slack_bytes` is what replays between two points were seen to need beyond the straight
    line between them.
    """

    workload: Workload
    points: tuple[Demand, ...]
    parts: Mapping[str, Bytes] = field(default_factory=dict)
    modules: Mapping[str, Bytes] = field(default_factory=dict)
    segments: Segments = Segments.EXPANDABLE
    slack_bytes: Bytes = 0

    def __post_init__(self) -> None:
        batches = [point.micro_batch for point in self.points]
        if not batches or batches[0] < 1 or sorted(set(batches)) != batches:
            raise ValueError(f"a footprint needs ascending micro-batches of 1 or more: {batches}")

    def at(self, micro_batch: int) -> Demand:
        """The demand of that many samples: exact at a point, from above between two points.

        Allocated bytes are a maximum of straight lines in the micro-batch, hence convex, and a
        chord lies above a convex curve; `slack_bytes` covers rounding and fragmentation. Below the
        first point the first holds; beyond the last, the last chord goes on, which is a guess.
        """
        points = self.points
        index = bisect_left(points, micro_batch, key=lambda point: point.micro_batch)
        if index < len(points) and points[index].micro_batch == micro_batch:
            return points[index]
        if index == 0 or len(points) == 1:
            scale = max(1, -(-micro_batch // points[0].micro_batch))
            return _between(points[0], points[0], micro_batch, self.slack_bytes, scale)
        index = min(index, len(points) - 1)
        return _between(points[index - 1], points[index], micro_batch, self.slack_bytes)

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


def _between(
    low: Demand, high: Demand, micro_batch: int, slack_bytes: Bytes, scale: int = 1
) -> Demand:
    """On the straight line through two demands, or `scale` times the one."""
    span = high.micro_batch - low.micro_batch

    def on_line(first: Bytes, last: Bytes) -> Bytes:
        if not span:
            return first * scale + slack_bytes
        rise = -(-(last - first) * (micro_batch - low.micro_batch) // span)
        return first + rise + slack_bytes

    return Demand(
        micro_batch=micro_batch,
        allocated_bytes=on_line(low.allocated_bytes, high.allocated_bytes),
        reserved_bytes=on_line(low.reserved_bytes, high.reserved_bytes),
        least_bytes=on_line(low.least_bytes, high.least_bytes),
    )
