"""Bytes as a function of the micro-batch: what the allocator of one step asks of a card."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["Demand", "Footprint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a step of `micro_batch` samples asks of PyTorch's caching allocator, in bytes.

    `allocated_bytes` is the peak of live blocks, `reserved_bytes` the peak of segments without a
    limit, and `least_bytes` the smallest limit under which the step still completes, with flushes
    of the cache: this decides whether it fits. None of them counts the CUDA context or cuDNN's
    workspaces, which depend on the card.
    """

    micro_batch: int
    allocated_bytes: Bytes
    reserved_bytes: Bytes
    least_bytes: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The demand of a workload at some micro-batches, ascending, and what holds the bytes.

    `parts` splits the peak of `points[-1]` by weights, gradients, optimizer, ema, activations,
    loss, data and workspace; its values add up to that peak's allocated bytes.
    """

    workload: Workload
    points: tuple[Demand, ...]
    parts: Mapping[str, Bytes] = field(default_factory=dict)
    modules: Mapping[str, Bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batches = [point.micro_batch for point in self.points]
        if not batches or batches[0] < 1 or sorted(set(batches)) != batches:
            raise ValueError(f"a footprint needs ascending micro-batches of 1 or more: {batches}")
