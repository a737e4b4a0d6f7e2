"""PowerSGD for gradients that travel between ranks, by PyTorch's own function for it.

Vogels et al. 2019 (arXiv 1905.13727): a gradient, as a matrix, travels as two thin ones whose
product is near to it; what is lost is added to the next step's gradient. Half precision needs no
more than a cast (`reduction`), as in PyTorch's `fp16_compress_hook` and `bf16_compress_hook`.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from orchestrator.trainer.options_ddp import Compression, DdpOptions
from orchestrator.types import Bytes

__all__ = ["Low", "low_of", "powersgd_bytes"]

_LEAST_RATE = 2  # PyTorch's: a matrix that would not shrink by so much travels as it is


class _GradBucket:
    """What PyTorch's function asks of a bucket of `DistributedDataParallel`."""

    def __init__(self, index: int, buffer: Tensor, slices: Sequence[Tensor], last: bool) -> None:  # noqa: FBT001 - private
        self._index, self._buffer, self._slices, self._last = index, buffer, slices, last

    def index(self) -> int:
        return self._index

    def buffer(self) -> Tensor:
        return self._buffer

    def gradients(self) -> Sequence[Tensor]:
        return self._slices

    def is_last(self) -> bool:
        return self._last


class Low:
    """Sums buckets as matrices of low rank.

    What was lost so far lives as long as the attempt: another one begins without, as PyTorch's
    does after a restart, and with uncompressed steps.

    Args:
        options: The rank, and the steps before the first compressed one.
        num_ranks: That sum.
    """

    def __init__(self, options: DdpOptions, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=options.powersgd_rank,
            start_powerSGD_iter=options.powersgd_start,
            min_compression_rate=_LEAST_RATE,
            orthogonalization_epsilon=1e-8,  # a gradient of zeros must not become NaN
        )
        self.num_bytes: Bytes = 0

    def reduce(
        self, index: int, buffer: Tensor, slices: Sequence[Tensor], *, is_last: bool
    ) -> None:
        """Replace a bucket by its sum over the ranks, about.

        One bucket after the other: the function sends three messages, each from where the one
        before has arrived, and those of two buckets could come in another order elsewhere.
        """
        if index == 0:
            self.num_bytes = 0
        self.num_bytes += self._bytes_of(slices)
        bucket: Any = _GradBucket(index, buffer, slices, is_last)
        buffer *= self._num_ranks  # it averages
        found = powerSGD_hook(self._state, bucket).wait()
        if found.data_ptr() != buffer.data_ptr():
            buffer.copy_(found)

    def _bytes_of(self, slices: Sequence[Tensor]) -> Bytes:
        if self._state.iter < self._state.start_powerSGD_iter:
            return sum(s.numel() * s.element_size() for s in slices)
        rank = self._state.matrix_approximation_rank
        return sum(powersgd_bytes(s.shape, rank) * s.element_size() // 4 for s in slices)


def powersgd_bytes(shape: Sequence[int], rank: int) -> Bytes:
    """Bytes in fp32 that travel for a gradient of this shape: two thin matrices, or all of it."""
    count = math.prod(shape)
    if not shape:
        return 4
    rows, columns = shape[0], count // shape[0]
    low = min(rows, columns, rank)
    thin = (rows + columns) * low
    return 4 * (thin if thin * _LEAST_RATE < count else count)


def low_of(options: DdpOptions, num_ranks: int) -> Low | None:
    """PowerSGD if it was asked for."""
    return Low(options, num_ranks) if options.compression is Compression.POWERSGD else None
