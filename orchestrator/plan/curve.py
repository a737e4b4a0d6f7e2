"""The demand at any micro-batch, read off the points of a footprint, never too low between them."""

from bisect import bisect_left
from dataclasses import replace
from fractions import Fraction

from orchestrator.plan.footprint import Demand, Footprint

__all__ = ["demand_at", "sizes_for"]


def sizes_for(largest: int) -> tuple[int, ...]:
    """Micro-batches at which a footprint should be known to plan up to `largest`: 1, 2, 4, ...

    Halfway between two powers of two the chord lies above the demand by at most what the constant
    part of the demand changes, which is nothing in most models.
    """
    sizes = {1, largest}
    size = 2
    while size < largest:
        sizes |= {size, min(largest, size + size // 2)}
        size *= 2
    return tuple(sorted(sizes))


def demand_at(footprint: Footprint, micro_batch: int) -> Demand:
    """The demand of `micro_batch` samples.

    Every allocation of a step is linear in the batch, so a peak over time is a maximum of straight
    lines: convex. Between two points the chord is then an upper bound. Beyond the last point the
    last chord goes on, which is exact where the same moment decides the peak.

    Raises:
        ValueError: `micro_batch` is below 1.
    """
    if micro_batch < 1:
        raise ValueError(f"a micro-batch of {micro_batch}")
    points = footprint.points
    at = bisect_left(points, micro_batch, key=lambda point: point.micro_batch)
    if at < len(points) and points[at].micro_batch == micro_batch:
        return points[at]
    if len(points) == 1:
        # Nothing tells what part of it is constant: by samples above, as it is below.
        few = points[0]
        return _scaled(few, max(Fraction(1), Fraction(micro_batch, few.micro_batch)), micro_batch)
    at = min(max(at, 1), len(points) - 1)
    low, high = points[at - 1], points[at]
    share = Fraction(micro_batch - low.micro_batch, high.micro_batch - low.micro_batch)

    def between(name: str) -> int:
        begin, end = getattr(low, name), getattr(high, name)
        return max(0, -int(-(begin + (end - begin) * share) // 1))

    return Demand(
        micro_batch=micro_batch,
        allocated_bytes=between("allocated_bytes"),
        reserved_bytes=between("reserved_bytes"),
        least_bytes=between("least_bytes"),
    )


def _scaled(demand: Demand, factor: Fraction, micro_batch: int) -> Demand:
    return replace(
        demand,
        micro_batch=micro_batch,
        allocated_bytes=-int(-demand.allocated_bytes * factor // 1),
        reserved_bytes=-int(-demand.reserved_bytes * factor // 1),
        least_bytes=-int(-demand.least_bytes * factor // 1),
    )
