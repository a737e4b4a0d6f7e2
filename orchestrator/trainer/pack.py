"""A thousand small tensors as a few large ones: a state is then written and read in one go.

torch writes each tensor as an archive member of its own and reads it so, at about 0.2 ms each. A
YOLO state has 1,300 and more. Where each tensor lies is kept in one tensor, too: a safe load takes
10 microseconds for everything else that it meets.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.types import Bytes

__all__ = ["own_state", "pack", "unpack"]

_TENSOR = ("a tensor from the pools",)  # one object, which pickle writes once

_POOL_BYTES: Bytes = 24 * 2**20
"""Where a pool is full; a larger tensor has one of its own.

glibc gives memory back to the kernel at every free, until it has seen a block freed that is large
but below 32 MiB: from then on it keeps blocks of that size (mallopt(3), M_MMAP_THRESHOLD). With one
pool of 50 MB, saving and the validation after it took 70,000 page faults an epoch, 0.2 s.
"""


def pack(state: Any) -> dict[str, Any]:
    """Replace the tensors of nested containers by places in pools of one dtype each, on the host.

    Layout in memory is kept (such as channels_last): optimizers are fast where a parameter and
    its state have the same.
    """
    pools = _Pools()
    layout = _packed(state, pools)
    return {"pools": pools.joined(), "places": torch.tensor(pools.places), "layout": layout}


def unpack(packed: Mapping[str, Any]) -> Any:
    """The containers that were packed; their tensors are views of the pools.

    Raises:
        ValueError: A place is not inside its pool, or there are too few.
    """
    return _unpacked(packed["layout"], _tensors(packed["pools"], packed["places"].tolist()))


def own_state(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that has loaded unpacked tensors its own copies of those that are views.

    `load_state_dict` copies only what changes its type or device. A view keeps its whole pool
    alive, and with it the weights that were loaded beside it.
    """
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
                state[name] = value.clone()


class _Pools:
    """Tensors by pool, and the places in the order of adding: pool, begin, ndim, shape, strides."""

    def __init__(self) -> None:
        self._tensors: list[list[Tensor]] = []
        self._open: dict[torch.dtype, tuple[int, int]] = {}  # pool, and how many numbers it has
        self.places: list[int] = []

    def add(self, tensor: Tensor) -> None:
        number, used = self._open.get(tensor.dtype, (-1, 0))
        if number < 0 or (used + tensor.numel()) * tensor.element_size() > _POOL_BYTES:
            number, used = len(self._tensors), 0
            self._tensors.append([])
        self._tensors[number].append(tensor)
        if tensor.nbytes <= _POOL_BYTES:
            self._open[tensor.dtype] = number, used + tensor.numel()
        self.places += (number, used, tensor.ndim, *tensor.shape, *tensor.stride())

    def joined(self) -> list[Tensor]:
        # to the host one by one: joining them on the card would need its memory twice for a moment
        return [torch.cat([_raw(tensor).cpu() for tensor in pool]) for pool in self._tensors]


def _packed(value: Any, pools: _Pools) -> Any:
    if isinstance(value, Tensor):
        tensor = value.detach()
        pools.add(tensor if _is_dense(tensor) else tensor.contiguous())
        return _TENSOR
    if isinstance(value, Mapping):
        return {key: _packed(item, pools) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(item, pools) for item in value)
    return value


def _tensors(pools: Sequence[Tensor], places: list[int]) -> Iterator[Tensor]:
    at = 0
    while at < len(places):
        number, begin, ndim = places[at : at + 3]
        shape, stride = (places[at + 3 + i * ndim : at + 3 + (i + 1) * ndim] for i in (0, 1))
        count = math.prod(shape)
        pool = pools[number][begin : begin + count]
        if pool.numel() != count:
            raise ValueError(f"a tensor of {count} numbers is cut off after {pool.numel()}")
        yield pool.as_strided(shape, stride)
        at += 3 + 2 * ndim


def _unpacked(value: Any, tensors: Iterator[Tensor]) -> Any:
    if value == _TENSOR:
        tensor = next(tensors, None)
        if tensor is None:
            raise ValueError("a tensor has no place in the pools")
        return tensor
    if isinstance(value, Mapping):
        return {key: _unpacked(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(item, tensors) for item in value)
    return value


def _raw(tensor: Tensor) -> Tensor:
    """The numbers in the order of memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _is_dense(tensor: Tensor) -> bool:
    """True when the numbers fill a stretch of memory without gaps, in whatever order."""
    expected = 1
    sizes: Sequence[tuple[int, int]] = sorted(
        (stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    for stride, size in sizes:
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return tensor.numel() > 0
