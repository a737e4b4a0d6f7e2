"""Steps whose padded label count changes: how the reserve grows from step to step."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import OrchestratorError
from orchestrator.memory.allocator import Allocator
from orchestrator.memory.expandable import allocator
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import least_capacity
from orchestrator.plan.footprint import Demand, Segments
from orchestrator.plan.workload import Labels
from orchestrator.types import Bytes

__all__ = ["LabelledTrace", "creep", "creeping_demand", "label_counts"]

_STEPS = 100  # after which public logs of dense data had grown the most


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTrace:
    """Traces of one workload with two label counts: sizes bilinear in samples and labels.

    The mean number of labels is taken to move in proportion with the most.
    """

    low: LinearTrace
    high: LinearTrace
    low_most: int
    high_most: int

    def at(self, most: int) -> LinearTrace:
        """The trace with `most` padded labels; beyond the two counts the line goes on.

        Raises:
            OrchestratorError: E2120, the two traces differ in structure.
        """
        return self.low.blend(self.high, (most - self.low_most) / (self.high_most - self.low_most))


def label_counts(labels: Labels) -> list[int]:
    """Padded label counts of 100 steps: anything between the mean and the most, the most last.

    Wider apart than in real data, which makes the reserve grow more rather than less.
    """
    low = min(math.ceil(labels.mean), labels.most)
    chance = random.Random(0)
    return [*(chance.randint(low, labels.most) for _ in range(_STEPS - 1)), labels.most]


def creep(
    trace: LabelledTrace,
    micro_batch: int,
    most: Sequence[int],
    pool: Allocator,
) -> list[Bytes]:
    """Reserved bytes after each of `len(most)` steps, with these padded label counts.

    The first step is the traced one from its beginning; each further one repeats the second
    traced step. What a step leaves behind (its loss, its images) is freed at its end.

    Raises:
        CapacityExceeded: A step does not complete under the pool's limit.
        OrchestratorError: E2120, the trace has no second step.
    """
    begin = _second_step(trace.low)
    addresses: dict[int, int] = {}
    _run(trace.low.events[:begin], trace.at(most[0]), micro_batch, pool, addresses)
    reserved = [pool.reserved]
    for count in most[1:]:
        older = set(addresses)
        _run(trace.low.events[begin:], trace.at(count), micro_batch, pool, addresses)
        for storage in [number for number in addresses if number not in older]:
            pool.free(addresses.pop(storage))
        reserved.append(pool.reserved)
    return reserved


def _run(
    events: Sequence[int],
    trace: LinearTrace,
    micro_batch: int,
    pool: Allocator,
    addresses: dict[int, int],
) -> None:
    sizes, is_scratch = trace.sizes(micro_batch).tolist(), trace.is_scratch
    for event in events:
        if event >= 0:
            if not is_scratch[event]:
                addresses[event] = pool.malloc(sizes[event])
        elif ~event in addresses:  # in a repeated step, one of the first step is dead already
            pool.free(addresses.pop(~event))


def creeping_demand(
    trace: LabelledTrace,
    micro_batch: int,
    most: Sequence[int],
    *,
    segments: Segments = Segments.FIXED,
) -> Demand:
    """The demand of a training whose steps have these padded label counts, one after another."""
    free_run = allocator(segments)
    creep(trace, micro_batch, most, free_run)

    def run(pool: Allocator) -> Allocator:
        creep(trace, micro_batch, most, pool)
        return pool

    return Demand(
        micro_batch=micro_batch,
        allocated_bytes=free_run.peak_allocated,
        reserved_bytes=free_run.peak_reserved,
        least_bytes=least_capacity(run, free_run, segments),
    )


def _second_step(trace: LinearTrace) -> int:
    for name, position in trace.marks:
        if name.startswith("step2"):
            return position
    raise OrchestratorError(
        "the growth of reserved memory cannot be predicted: the trace has one step only",
        code="E2120",
        why=(f"its marks are {', '.join(name for name, _ in trace.marks) or 'none'}",),
        fix=("trace two steps",),
    )
