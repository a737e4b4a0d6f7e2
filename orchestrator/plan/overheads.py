"""What a card holds beyond the allocator's blocks: context, workspaces, the factor, gangs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.plan.footprint import Demand
from orchestrator.types import Bytes

__all__ = ["Figure", "Overheads", "bucket_bytes", "driver_bytes", "overheads"]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, where it is from, and how far to trust it: measured, published or guess."""

    value: float
    source: str
    confidence: str


_TRUST = ("guess", "published", "measured")  # weakest first

# A process that uses CUDA, in bytes of the card, before the first tensor; modules load lazily.
_CONTEXT_OLD = Figure(
    359 * _MIB,
    "pytorch pull request 86509: 287 MB after one tensor, on top of which come the kernels used",
    "published",
)
_CONTEXT = Figure(
    461 * _MIB, "nvidia-smi less GPU_mem in public logs: 0.35 to 0.5 GiB", "published"
)
_CONTEXT_HOPPER = Figure(
    708 * _MIB, "nvidia-smi less GPU_mem of a public run on an H200: 657 to 759 MiB", "published"
)
_CONTEXT_NEW = Figure(708 * _MIB, "none published; as on Hopper, where it is largest", "guess")
_EAGER_LOADING = Figure(
    (667 - 287) * 1_000_000,
    "pytorch pull request 86509: 667 MB against 287 MB, before torch 1.13 and CUDA 11.7",
    "published",
)

# Peaks on a card over those of the replay. Scratch of cuDNN is the main reason: it picks
# algorithms with large workspaces on cards before Ampere, where none is replayed. Runs on a T4
# asked for 1.10 to 1.18 with torch 2.2, for 1.02 to 1.10 with 2.5 and newer. From Ampere on, what
# kernels copy is replayed (`memory/workspace.py`), and the likely figures go without the constant,
# which stood for it. `jobs.bench_memory_yolo` holds the likely figures against public runs that
# they were not fitted on.
_FACTOR = Figure(1.03, "GPU_mem of ten public ultralytics runs: median error 1.6 %", "published")
_FACTOR_NEW = Figure(1.03, "as for Ampere; public runs ask for 0.99 to 1.11", "guess")
_FACTOR_TURING = Figure(
    1.07,
    "GPU_mem after epoch 1 of seven public runs on a T4: 1.02 to 1.18, the median",
    "published",
)
_FACTOR_OLD = Figure(
    1.18, "AutoBatch's profile at batch 16: 1.16 on a T4, 1.25 on a 1080 Ti", "guess"
)
_SAFE_OLD = Figure(1.25, "the most of four public T4 runs in later epochs: 1 / 0.80", "published")
_CONSTANT = Figure(
    0.10 * (1 << 30),
    "GPU_mem of ten public ultralytics runs: the offset, before workspaces were replayed",
    "published",
)

# ATen/cuda/CublasHandlePool.cpp of torch 2: `:4096:8` on sm 9.0 and 10.0, else `:4096:2:16:8`.
# One for the thread of the forward and one for that of the backward.
_CUBLAS_LARGE = Figure(8 * 4096 * 1024, "CUBLAS_WORKSPACE_CONFIG=:4096:8, in KiB", "published")
_CUBLAS_SMALL = Figure(
    (2 * 4096 + 8 * 16) * 1024, "CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8, in KiB", "published"
)
_NUM_HANDLES = 2

# Gradients of a gang lie in buckets from the first step to the last (`trainer/reduction.py`), where
# those of one rank come and go. What travels in half precision is half a copy more. PowerSGD keeps
# what it lost, and while it compresses a bucket a copy of it and the difference (powerSGD_hook.py
# of PyTorch): all of it is planned with. NCCL keeps, beside PyTorch's allocator, a buffer a
# protocol for each connection of each channel: Simple 4 MiB (the default of NCCL_BUFFSIZE in its
# documentation of environment variables), LL128 120 * 640 * 8 * 8 bytes and LL 8 * 512 * 8 * 16
# bytes (src/init.cc and src/include/device.h of NCCL 2.x). How many channels it opens depends on
# what links the cards: 2 to 16. Four connections: the ring's one, and up to three of the tree.
_BUCKETS: Mapping[str, float] = {"none": 1.0, "fp16": 1.5, "bf16": 1.5, "powersgd": 4.0}
_NCCL_CHANNELS, _NCCL_CONNECTIONS = 16, 4
_NCCL = Figure(
    _NCCL_CHANNELS * _NCCL_CONNECTIONS * ((4 << 20) + 120 * 640 * 8 * 8 + 8 * 512 * 8 * 16),
    "NCCL's buffers by protocol, of 16 channels with four connections each",
    "guess",
)

# What the driver keeps of a card for itself: NVML counts it in the total, CUDA does not offer it.
# torch printed 7.79 GiB of an RTX 3070's 8, 14.75 and 14.56 of a T4's 15, 22.03 of an L4's 22.49,
# 23.70 of an RTX 3090's 24, 39.6 of an A100's 40 and 79.21 of 80 (AutoBatch's profiles and error
# messages, on Linux; on Windows nothing is missing). The line is within 0.13 GiB of each.
_DRIVER = Figure(0.20 * (1 << 30), "torch's total against NVML's of six cards", "published")
_DRIVER_SHARE = Figure(0.0075, "as the constant part", "published")


@dataclass(frozen=True, slots=True)
class _Generation:
    context: Figure
    likely: Figure
    safe: Figure
    offset: Figure | None = _CONSTANT  # of what is likely; the constant itself is planned with


_PASCAL = _Generation(_CONTEXT_OLD, _FACTOR_OLD, _SAFE_OLD)
_GENERATIONS: Mapping[str, _Generation] = {
    "Pascal": _PASCAL,
    "Volta": _PASCAL,
    "Turing": _Generation(_CONTEXT_OLD, _FACTOR_TURING, _SAFE_OLD),
    "Ampere": _Generation(_CONTEXT, _FACTOR, _FACTOR, None),
    "Ada": _Generation(_CONTEXT, _FACTOR, _FACTOR),
    "Hopper": _Generation(_CONTEXT_HOPPER, _FACTOR_NEW, _FACTOR_NEW, None),
    "Blackwell": _Generation(_CONTEXT_NEW, _FACTOR_NEW, _FACTOR_NEW),
}
# Of a card of which only the size is known, the worst of everything.
_UNKNOWN = _Generation(_CONTEXT_NEW, _FACTOR_OLD, _SAFE_OLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What turns bytes of the replayed allocator into bytes of a card, in both directions.

    `outside_bytes` are taken beside PyTorch's allocator (CUDA context, NCCL), `inside_bytes` by it
    but not by the traced step (cuBLAS, the buckets of a gang's gradients). `factor` and
    `constant_bytes` turn what the replay says into what is planned with, `likely_factor` and
    `likely_constant_bytes` into the middle of what was seen. `confidence` is that of the weakest
    figure.
    """

    outside_bytes: Bytes
    inside_bytes: Bytes
    factor: float
    likely_factor: float
    constant_bytes: Bytes
    likely_constant_bytes: Bytes
    figures: Mapping[str, Figure]

    @property
    def confidence(self) -> str:
        """measured, published or guess."""
        return min((f.confidence for f in self.figures.values()), key=_TRUST.index)

    def reserve_bytes(self, demand: Demand) -> Bytes:
        """What PyTorch's allocator must be allowed to reserve for the step to complete."""
        return self._scaled(demand.least_bytes, self.factor) + self.constant_bytes

    def needed_bytes(self, demand: Demand) -> Bytes:
        """What must be free on the card for the step to complete."""
        return self.outside_bytes + self.reserve_bytes(demand)

    def likely_bytes(self, demand: Demand) -> Bytes:
        """What nvidia-smi will probably show for the process, with memory to spare."""
        likely = self._scaled(demand.reserved_bytes, self.likely_factor)
        return self.outside_bytes + likely + self.likely_constant_bytes

    def capacity(self, free_bytes: Bytes) -> Bytes:
        """The most `least_bytes` whose `needed_bytes` are within `free_bytes`; 0 if none is."""
        room = free_bytes - self.outside_bytes - self.constant_bytes
        least = max(math.floor(room / self.factor) - self.inside_bytes, 0)
        while least and self._scaled(least, self.factor) > room:
            least -= 1  # floating point: never one byte too many
        return least

    def _scaled(self, num_bytes: Bytes, factor: float) -> Bytes:
        return math.ceil(factor * (num_bytes + self.inside_bytes))


def bucket_bytes(parameter_bytes: Bytes, compression: str = "none") -> Bytes:
    """What a rank of several keeps so that gradients can travel, which are as large as weights.

    Raises:
        KeyError: There is no such compression.
    """
    return math.ceil(_BUCKETS[compression] * parameter_bytes)


def driver_bytes(total: Bytes) -> Bytes:
    """What no process can have of a card whose NVML total is `total`, once a card."""
    return min(total, math.ceil(_DRIVER.value + _DRIVER_SHARE.value * total))


def overheads(
    architecture: str,
    *,
    is_deterministic: bool = True,
    has_lazy_loading: bool = True,
    world_size: int = 1,
    parameter_bytes: Bytes = 0,
    compression: str = "none",
) -> Overheads:
    """The overheads of a process on a card.

    Args:
        architecture: As the catalogue has it: Pascal ... Blackwell; anything else counts as
            unknown and takes the worst of all.
        is_deterministic: Whether `CUBLAS_WORKSPACE_CONFIG` is `:4096:8`, as ultralytics sets it.
        has_lazy_loading: torch 1.13 and CUDA 11.7 or newer.
        world_size: Ranks of the gang; above 1 the buckets of the gradients and NCCL come on top.
        parameter_bytes: Of the model's weights, for the buckets. The gradients lie in them, so that
            adding them to the peak of the step, which has some gradients too, is an upper bound.
        compression: What gradients travel as: none, fp16, bf16 or powersgd.
    """
    generation = _GENERATIONS.get(architecture, _UNKNOWN)
    is_large = is_deterministic or architecture in ("Hopper", "Blackwell")
    figures = {
        "context": generation.context,
        "factor": generation.safe,
        "likely_factor": generation.likely,
        "constant": _CONSTANT,
        "cublas": _CUBLAS_LARGE if is_large else _CUBLAS_SMALL,
    }
    outside = generation.context.value
    inside = figures["cublas"].value * _NUM_HANDLES
    offset = generation.offset
    if offset is not None:
        figures["likely_constant"] = offset
    if not has_lazy_loading:
        figures["eager_loading"] = _EAGER_LOADING
        outside += _EAGER_LOADING.value
    if world_size > 1:
        figures["nccl"] = _NCCL
        outside += _NCCL.value
        inside += bucket_bytes(parameter_bytes, compression)
    return Overheads(
        outside_bytes=math.ceil(outside),
        inside_bytes=math.ceil(inside),
        factor=generation.safe.value,
        likely_factor=generation.likely.value,
        constant_bytes=math.ceil(_CONSTANT.value),
        likely_constant_bytes=0 if offset is None else math.ceil(offset.value),
        figures=figures,
    )
