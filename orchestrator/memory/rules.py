"""Results of frequent operators, by rule: torch derives them from Python code, in 5 to 30 ms each.

A rule holds only for tensors laid out plainly; where it gives no results, torch derives them. That
both ways agree is tested operator by operator.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

__all__ = ["RULES", "Fresh"]

Fresh: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, stride and type of a new tensor, on the device of the first argument."""

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


def _is_plain(tensor: Any) -> bool:
    """Dense, in the usual order or channels last, and of no size that leaves its stride open."""
    if 1 in tensor.shape or 0 in tensor.shape:
        return False
    if tensor.is_contiguous():
        return True
    return tensor.ndim == 4 and bool(tensor.is_contiguous(memory_format=torch.channels_last))


def _are_alike(first: Any, second: Any) -> bool:
    return (
        first.shape == second.shape
        and first.stride() == second.stride()
        and first.dtype is second.dtype
        and first.fake_device == second.fake_device
    )


def _like(tensor: Any) -> Fresh:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _gradient(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh]:
    """One result, of the kind that both arguments are."""
    if len(tensors) != 2 or len(args) != 2:
        return []
    first, second = tensors
    return [_like(first)] if _is_plain(first) and _are_alike(first, second) else []


def _norm(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh]:
    """The output, mean and scale of every channel, and no reserve."""
    is_training, given = args[5], tensors[0]
    if not is_training or len(tensors) != 5 or not _has_float_weights(given, tensors[1:]):
        return []
    channels: Fresh = ((given.shape[1],), (1,), torch.float32)
    return [_like(given), channels, channels, ((0,), (1,), torch.uint8)]


def _norm_backward(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh]:
    """Gradients of the input, of the weights and of the offsets."""
    del args
    given, gradient, *rest = tensors
    if len(rest) != 6 or not _are_alike(given, gradient):
        return []
    if not _has_float_weights(given, rest[:-1]):
        return []
    channels: Fresh = ((given.shape[1],), (1,), torch.float32)
    return [_like(given), channels, channels]


def _has_float_weights(given: Any, channels: Sequence[Any]) -> bool:
    """Four dimensions, plainly laid out, and per channel what BatchNorm keeps in full precision."""
    return (
        given.ndim == 4
        and (given.dtype is torch.float32 or given.dtype in _HALF)
        and _is_plain(given)
        and all(t.dtype is torch.float32 and t.shape == given.shape[1:2] for t in channels)
    )


_Rule: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], list[Fresh]]

RULES: Mapping[Any, _Rule] = {
    aten.silu_backward.default: _gradient,
    aten.sigmoid_backward.default: _gradient,
    aten.cudnn_batch_norm.default: _norm,
    aten.cudnn_batch_norm_backward.default: _norm_backward,
}
"""By operator: from its tensors, in order, and its arguments, the tensors that it makes."""
