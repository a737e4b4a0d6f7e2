"""What a traced step demands at any micro-batch: its events replayed through the allocator."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from orchestrator.memory.allocator import Allocator, CapacityExceeded
from orchestrator.memory.expandable import allocator
from orchestrator.memory.linear import Ints, LinearTrace
from orchestrator.plan.footprint import Demand, Footprint, Segments
from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = [
    "demand",
    "fits",
    "footprint",
    "known_demands",
    "largest",
    "least_capacity",
    "micro_batches",
    "replay",
]

_MOST = 1 << 16  # samples beyond which nobody asks


def replay(
    trace: LinearTrace,
    micro_batch: int,
    pool: Allocator,
    workspaces: Sequence[Bytes] = (),
    *,
    has_scratch: bool = False,
) -> Allocator:
    """Run all events of the trace through `pool`, which is returned.

    Args:
        trace: The step.
        micro_batch: Samples.
        pool: A new allocator.
        workspaces: Blocks that are taken first and stay, such as those of cuBLAS.
        has_scratch: Whether kernels get their workspaces, too. Under a limit they need not: where
            one is refused, torch takes an algorithm with less (ATen/native/cudnn/Conv_v8.cpp).

    Raises:
        CapacityExceeded: The step does not complete under the pool's limit.
    """
    malloc, free = pool.malloc, pool.free
    for num_bytes in workspaces:
        malloc(num_bytes)
    sizes = trace.sizes(micro_batch).tolist()
    addresses = [0] * len(sizes)
    lend = pool.lend
    take = [lend if is_lent else malloc for is_lent in trace.is_scratch]
    for event in trace.events if has_scratch else trace.lasting:
        if event >= 0:
            addresses[event] = take[event](sizes[event])
        else:
            free(addresses[~event])
    return pool


def fits(
    trace: LinearTrace,
    micro_batch: int,
    capacity: Bytes,
    *,
    segments: Segments = Segments.EXPANDABLE,
    workspaces: Sequence[Bytes] = (),
) -> bool:
    """Whether the step completes with that many bytes for the allocator, flushes included."""
    try:
        replay(trace, micro_batch, allocator(segments, capacity), workspaces)
    except CapacityExceeded:
        return False
    return True


def demand(
    trace: LinearTrace,
    micro_batch: int,
    *,
    segments: Segments = Segments.EXPANDABLE,
    workspaces: Sequence[Bytes] = (),
) -> Demand:
    """What the step asks of the allocator; `demand(...).least_bytes` is a capacity that `fits`."""
    free_run = replay(trace, micro_batch, allocator(segments), workspaces)
    roomy = replay(trace, micro_batch, allocator(segments), workspaces, has_scratch=True)
    least = least_capacity(
        lambda pool: replay(trace, micro_batch, pool, workspaces), free_run, segments
    )
    return Demand(
        micro_batch=micro_batch,
        allocated_bytes=free_run.peak_allocated,
        reserved_bytes=max(roomy.peak_reserved, least),
        least_bytes=least,
    )


def least_capacity(
    run: Callable[[Allocator], Allocator], free_run: Allocator, segments: Segments
) -> Bytes:
    """A capacity under which `run` completes: raised from below until nothing more is refused.

    A replay with an elastic capacity ends with the capacity that it was pushed to. The one that
    ends with the capacity it began with shows that this one suffices. With fixed segments what
    was reserved without a limit suffices; with expandable ones it need not, since under a limit
    a request counts whole even where it would only extend a free block.
    """
    capacity = free_run.peak_allocated
    while segments is Segments.EXPANDABLE or capacity < free_run.peak_reserved:
        pushed = run(allocator(segments, capacity, is_elastic=True)).capacity or 0
        if pushed == capacity:
            return capacity
        capacity = pushed
    return free_run.peak_reserved


def largest(
    trace: LinearTrace,
    capacity: Bytes,
    *,
    segments: Segments = Segments.EXPANDABLE,
    workspaces: Sequence[Bytes] = (),
    at_most: int = _MOST,
) -> int:
    """The most samples, up to `at_most`, that `fits` says yes to; 0 if not even one fits.

    The allocated peak, which sums alone give, bounds the answer from above; from there the
    excess over the capacity, divided by the bytes of a sample, leads down to it.
    """
    room = capacity - sum(workspaces)
    high = _bisect(1, at_most, lambda batch: trace.allocated_peak(batch) <= room)
    low, batch = 0, high
    while low < high:
        pool = allocator(segments, capacity, is_elastic=True)
        needed = replay(trace, batch, pool, workspaces).capacity or 0
        if needed <= capacity:
            low, batch = batch, (batch + high + 1) // 2
            continue
        high = batch - 1
        each = max(trace.allocated_peak(batch) - trace.allocated_peak(high), 1)
        batch = min(max(batch - (needed - capacity) // each, low + 1), high)
    return low


def footprint(
    workload: Workload,
    trace: LinearTrace,
    at_most: int,
    *,
    segments: Segments = Segments.EXPANDABLE,
    points: Sequence[int] | None = None,
    known: Mapping[int, Demand] | None = None,
    demand_of: Callable[[int], Demand] | None = None,
) -> Footprint:
    """The demands over 1 to `at_most` samples, and what holds the bytes at the last.

    Args:
        workload: What was traced.
        trace: Its trace.
        at_most: The last micro-batch.
        segments: The kind of allocator.
        points: Micro-batches to replay; by default `micro_batches(at_most)`.
        known: Demands that were replayed before, by micro-batch.
        demand_of: Gives the demand of a micro-batch in place of one replay of the trace: with
            fixed segments and labels that vary, `creeping_demand`.
    """
    chosen = points or micro_batches(at_most)
    ask = demand_of or partial(demand, trace, segments=segments)
    before = known or {}
    demands = tuple(before.get(batch) or ask(batch) for batch in chosen)
    sizes = _block_sizes(trace, chosen[-1], segments)
    return Footprint(
        workload=workload,
        points=demands,
        parts=trace.parts_at_peak(sizes),
        modules=trace.modules_at_peak(sizes),
        segments=segments,
    )


def known_demands(known: Footprint) -> dict[int, Demand]:
    """The points of a footprint by micro-batch."""
    return {point.micro_batch: point for point in known.points}


def micro_batches(at_most: int) -> list[int]:
    """1 to 4, then four to each doubling, and `at_most` itself."""
    chosen = {1, 2, 3, 4, at_most}
    step = 1
    while 4 * step < at_most:
        chosen.update(range(4 * step, 8 * step, step))
        step *= 2
    return sorted(batch for batch in chosen if 1 <= batch <= at_most)


def _block_sizes(trace: LinearTrace, micro_batch: int, segments: Segments) -> Ints:
    """The bytes of the block that each storage is given, which may exceed what it asked for."""
    pool = allocator(segments)
    sizes = trace.sizes(micro_batch)
    given = np.zeros_like(sizes)
    addresses = [0] * len(sizes)
    for event in trace.events:
        if event >= 0:
            before = pool.allocated
            addresses[event] = pool.malloc(int(sizes[event]))
            given[event] = pool.allocated - before
        else:
            pool.free(addresses[~event])
    return given


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `high` for which `holds`, which is monotone; low - 1 if none."""
    step = 1
    while low + step <= high and holds(low + step):
        step *= 2
    low, high = low - 1, min(high, low + step)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
