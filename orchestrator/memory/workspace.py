"""What cuDNN takes for the moment of a convolution: copies of what its kernels read."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from orchestrator.memory.fake import FakeCard
from orchestrator.types import Bytes

__all__ = ["CONVOLUTIONS", "LendingCard", "workspaces"]

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default
CONVOLUTIONS = frozenset({_FORWARD, _BACKWARD})

# Kernels for tensor cores read images with the channels last, in rows of 16 bytes. Profiles of
# convolutions in half precision show two nchwToNhwcKernel a kernel (tensorflow issue 15897), and
# kernels named "nhwc2nchw": they write in the usual order themselves. TF32 does so, too, and is
# what convolutions in single precision take where there is any (torch.backends.cudnn.allow_tf32).
_ROW_BYTES = 16
_MOST_BYTES = 4  # of a number; none of more


class LendingCard(FakeCard):
    """A fake card of compute capability 8.0 or newer, which is lent workspaces for convolutions.

    On older cards they are left to the factor of the card: with them, eleven public runs on Turing
    were predicted worse (`jobs.bench_memory_workspace`).
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        """As `FakeCard`; a workspace is born after the result of its kernel, and dies at once."""
        if func not in CONVOLUTIONS:
            return super().__torch_dispatch__(func, types, args, kwargs)
        with self.tracker.lending(workspaces(func, args)):
            return super().__torch_dispatch__(func, types, args, kwargs)


def workspaces(func: Any, args: Sequence[Any]) -> list[Bytes]:
    """The workspace of each kernel that a convolution runs, in the order of what they return.

    The forward pass reads the images and the weights. The backward pass reads the gradient and the
    weights for the gradient of the images, then the images and the gradient for that of the
    weights; of what is not asked for there is none. A workspace is taken after the result of its
    kernel and given back at once (torch's ATen/native/cudnn/Conv_v8.cpp).

    Args:
        func: One of `CONVOLUTIONS`.
        args: Its arguments.
    """
    is_forward = func is _FORWARD
    images, weights = args[:2] if is_forward else args[1:3]
    groups = args[8] if is_forward else args[9]
    is_by_channel = 1 < groups == images.shape[1]  # which tensor cores do not do
    if images.ndim != 4 or images.element_size() > _MOST_BYTES or is_by_channel:
        return []
    is_last = any(map(_is_only_last, (images, weights)))
    read = [_copied(each, groups, is_last=is_last) for each in (images, weights)]
    if is_forward:
        return [sum(read)]
    gradient = _copied(args[0], groups, is_last=is_last)
    mask = args[10]
    kernels = (gradient + read[1], read[0] + gradient)
    return [each for each, is_asked in zip(kernels, mask, strict=False) if is_asked]


def _copied(tensor: Any, groups: int, *, is_last: bool) -> Bytes:
    """Bytes of the copy that is read in place of a tensor; 0 where it can be read as it lies."""
    num, channels, *rest = tensor.shape
    size = tensor.element_size()
    row = _ROW_BYTES // size
    missing = -channels % row if groups == 1 else 0
    lies_so = is_last or tensor.is_contiguous(memory_format=torch.channels_last)
    if lies_so and not missing:
        return 0
    return int(num * (channels + missing) * math.prod(rest) * size)


def _is_only_last(tensor: Any) -> bool:
    """Laid out with the channels last, and in no other order."""
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return bool(is_last) and not tensor.is_contiguous()
