"""Results of frequent operators, by rule: torch derives them in Python code, in 0.3 to 30 ms each.

A rule holds only for tensors laid out plainly; where it gives no results, torch derives them. That
both ways agree is tested operator by operator.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch._prims_common import suggest_memory_format

__all__ = ["RULES", "Fresh", "copied"]

Fresh: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, stride and type of a new tensor, on the device of the first argument."""

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_FLOAT = (torch.float32, *_HALF)
_OF_COPIES = frozenset({"dtype", "device", "layout", "non_blocking"})


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


def _order(tensor: Any) -> tuple[int, ...]:
    """The dimensions by falling stride; () where sizes or strides leave that open."""
    shape, stride = tuple(tensor.shape), tensor.stride()
    if 0 in shape:
        return ()
    if 1 not in shape and 0 not in stride and len(set(stride)) == len(stride):
        return tuple(sorted(range(len(shape)), key=lambda dim: -stride[dim]))
    usual = tuple(range(len(shape)))
    last = (0, 2, 3, 1) if len(shape) == 4 else usual
    return next((order for order in (usual, last) if _dense(shape, order) == stride), ())


def _dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense tensor whose dimensions lie in that order."""
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def _elementwise(tensors: Sequence[Any]) -> list[Fresh]:
    """A dense result, in the order in which all arguments lie."""
    first, *rest = tensors
    order = _order(first)
    stride = _dense(first.shape, order) if order else ()
    is_open = 1 in first.shape
    for other in rest:
        if other.shape != first.shape or other.dtype is not first.dtype:
            return []
        if other.fake_device != first.fake_device or _order(other) != order:
            return []
        if is_open and other.stride() != first.stride():
            return []
    return [(tuple(first.shape), stride, first.dtype)] if order else []


def _arithmetic(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh]:
    """Of two tensors, or of one and a number, of a type that has fractions."""
    is_number = len(tensors) == 1 and len(args) == 2 and type(args[1]) in (int, float)
    if len(args) != 2 or tensors[0].dtype not in _FLOAT or not (is_number or len(tensors) == 2):
        return []
    return _elementwise(tensors)


def _gradient(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh]:
    """One result, of the kind that both arguments are."""
    if len(tensors) != 2 or len(args) != 2 or tensors[0].dtype not in _FLOAT:
        return []
    return _elementwise(tensors)


def copied(tensor: Any, options: Mapping[str, Any]) -> tuple[Fresh, torch.device] | None:
    """`aten._to_copy` of a dense tensor to another type or device, and the device that it is on."""
    if not options.keys() <= _OF_COPIES or options.get("layout") not in (None, torch.strided):
        return None
    device = options.get("device") or tensor.fake_device
    if device.type != "cpu" and device.index is None:
        return None
    if ("dtype" not in options and "device" not in options) or not _order(tensor):
        return None
    stride = tensor.stride()
    if stride != _dense(tensor.shape, _order(tensor)):
        return None
    return (tuple(tensor.shape), stride, options.get("dtype") or tensor.dtype), device


def _convolution(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh | None]:
    """The result of a convolution in two dimensions."""
    images, weights, bias, stride, padding, dilation, is_transposed, *_ = args
    if is_transposed or not _can_convolve(images, weights, tensors):
        return []
    sizes = (
        (size + 2 * pad - gap * (width - 1) - 1) // step + 1
        for size, width, step, pad, gap in zip(
            images.shape[2:], weights.shape[2:], stride, padding, dilation, strict=True
        )
    )
    layout = _layout(args, bias=bias)
    return [_in_layouts((images.shape[0], weights.shape[0], *sizes), images.dtype, layout)]


def _convolution_backward(tensors: Sequence[Any], args: Sequence[Any]) -> list[Fresh | None]:
    """The gradients of the images, of the weights and of the offsets, as far as asked for."""
    gradient, images, weights, sizes, *_, mask = args
    if args[7] or not _can_convolve(images, weights, tensors):
        return []
    formats = (suggest_memory_format(images), suggest_memory_format(weights))
    is_last = torch.channels_last in formats
    first = torch.channels_last if is_last else torch.contiguous_format
    layouts = (first, _layout(args[1:], bias_sizes=sizes))
    offsets = ((sizes[0],), (1,), gradient.dtype) if mask[2] else None
    return [
        *(
            _in_layouts(tuple(each.shape), gradient.dtype, *layouts) if is_asked else None
            for each, is_asked in zip((images, weights), mask, strict=False)
        ),
        offsets,
    ]


def _can_convolve(images: Any, weights: Any, tensors: Sequence[Any]) -> bool:
    return (
        images.ndim == weights.ndim == 4
        and images.dtype is weights.dtype
        and 0 not in images.shape
        and all(each.fake_device == images.fake_device for each in tensors)
    )


def _layout(args: Sequence[Any], *, bias: Any = None, bias_sizes: Any = None) -> Any:
    """The layout that the kernels of a card work in, from images, weights and what follows."""
    images, weights, _, stride, padding, dilation, is_transposed, output_padding, groups = args[:9]
    backend = torch._C._select_conv_backend(
        images,
        weights,
        bias=bias,
        bias_sizes=bias_sizes,
        stride=stride,
        padding=padding,
        dilation=dilation,
        transposed=is_transposed,
        output_padding=output_padding,
        groups=groups,
    )
    return torch._C._conv_determine_backend_memory_format(images, weights, backend)


def _in_layouts(shape: tuple[int, ...], dtype: torch.dtype, *layouts: Any) -> Fresh:
    """A new tensor after it was put into layouts, one after the other."""
    with torch._C._DisableTorchDispatch():
        made = torch.empty(shape, device="meta")
        for layout in layouts:
            made = made.to(memory_format=layout)
    return shape, made.stride(), dtype


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


_Rule: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], Sequence[Fresh | None]]

RULES: Mapping[Any, _Rule] = {
    aten.silu_backward.default: _gradient,
    aten.sigmoid_backward.default: _gradient,
    aten.add.Tensor: _arithmetic,
    aten.sub.Tensor: _arithmetic,
    aten.mul.Tensor: _arithmetic,
    aten.div.Tensor: _arithmetic,
    aten.maximum.default: _arithmetic,
    aten.minimum.default: _arithmetic,
    aten.cudnn_batch_norm.default: _norm,
    aten.cudnn_batch_norm_backward.default: _norm_backward,
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
"""By operator: from its tensors, in order, and its arguments, the tensors that it makes."""
