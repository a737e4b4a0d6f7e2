"""Views of tensors, by rule: shape, stride and offset, which torch derives from Python code.

Where a rule gives nothing, torch derives it. That both ways agree is tested operator by operator.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

__all__ = ["VIEWS"]

_Place: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]

aten = torch.ops.aten


def _select(tensor: Any, args: Sequence[Any]) -> _Place | None:
    """All at one index of a dimension."""
    _, dim, index = args
    shape, stride = list(tensor.shape), list(tensor.stride())
    if not 0 <= dim < len(shape) or not 0 <= index < shape[dim]:
        return None
    offset = tensor.storage_offset() + index * stride[dim]
    del shape[dim], stride[dim]
    return tuple(shape), tuple(stride), offset


def _slice(tensor: Any, args: Sequence[Any]) -> _Place | None:
    """A range of a dimension."""
    _, dim, begin, end = args if len(args) == 4 else (None, -1, None, None)
    shape, stride = list(tensor.shape), tensor.stride()
    if not 0 <= dim < len(shape) or type(begin) is not int or type(end) is not int:
        return None
    end = min(end, shape[dim])
    if not 0 <= begin < end:
        return None
    shape[dim] = end - begin
    return tuple(shape), stride, tensor.storage_offset() + begin * stride[dim]


def _view(tensor: Any, args: Sequence[Any]) -> _Place | None:
    """Another shape, of dimensions whose strides are given by the elements that they reach."""
    (_, wanted) = args
    if 0 in tensor.shape or 1 in tensor.shape or not tensor.ndim or 1 in wanted or not wanted:
        return None
    with torch._C._DisableTorchDispatch():
        lain = torch.empty_strided(tensor.shape, tensor.stride(), device="meta")
        try:
            found = lain.view(wanted)
        except RuntimeError:  # it cannot be viewed so, which torch words for the user
            return None
    if 1 in found.shape:
        return None
    return tuple(found.shape), found.stride(), tensor.storage_offset()


VIEWS: Mapping[Any, Callable[[Any, Sequence[Any]], _Place | None]] = {
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.view.default: _view,
}
"""By operator: from the tensor and all arguments, the place of the view in its storage."""
