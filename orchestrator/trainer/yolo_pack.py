"""A thousand small tensors as a few large ones: a state is then written and read in one go.

torch writes each tensor as an archive member of its own and reads it so, at about 0.2 ms each. A
YOLO state has 1,300 and more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["pack", "unpack"]

_MARK = "tensor in a pool"


def pack(state: Any) -> dict[str, Any]:
    """Replace the tensors of nested containers by places in one pool for each dtype, on the host.

    Layout in memory is kept (such as channels_last): optimizers are fast where a parameter and
    its state have the same.
    """
    found: dict[str, list[Tensor]] = {}
    used: dict[str, int] = {}
    layout = _packed(state, found, used)
    # to the host one by one: joining them on the card would need its memory twice for a moment
    pools = {name: torch.cat([_raw(t).cpu() for t in tensors]) for name, tensors in found.items()}
    return {"pools": pools, "layout": layout}


def unpack(packed: Mapping[str, Any]) -> Any:
    """The containers that were packed; their tensors are views of the pools.

    Raises:
        ValueError: A place is not inside its pool.
    """
    return _unpacked(packed["layout"], packed["pools"])


def _packed(value: Any, found: dict[str, list[Tensor]], used: dict[str, int]) -> Any:
    if isinstance(value, Tensor):
        tensor = value.detach()
        if not _is_dense(tensor):
            tensor = tensor.contiguous()
        pool = str(tensor.dtype)
        begin = used.get(pool, 0)
        used[pool] = begin + tensor.numel()
        found.setdefault(pool, []).append(tensor)
        return _MARK, pool, begin, tuple(tensor.shape), tensor.stride()
    if isinstance(value, Mapping):
        return {key: _packed(item, found, used) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(item, found, used) for item in value)
    return value


def _unpacked(value: Any, pools: Mapping[str, Tensor]) -> Any:
    if isinstance(value, tuple) and len(value) == 5 and value[0] == _MARK:
        _, name, begin, shape, stride = value
        count = math.prod(shape)
        pool = pools[name][begin : begin + count]
        if pool.numel() != count:
            raise ValueError(f"a tensor of {count} numbers is cut off after {pool.numel()}")
        return pool.as_strided(shape, stride)
    if isinstance(value, Mapping):
        return {key: _unpacked(item, pools) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(item, pools) for item in value)
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
