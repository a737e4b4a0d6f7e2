"""Parts of ultralytics' models that a trace handles by hand: the loss and its loops."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from orchestrator.memory.stage import Stage

__all__ = ["looping", "place", "without_first_weights"]


def place(stage: Stage, model: Any, part: str, *, is_channels_last: bool) -> None:
    """The model, what its head keeps beside its buffers, and its loss."""
    stage.place(model, part, is_channels_last=is_channels_last)
    head = model.model[-1]
    with stage.labelled("loss"):
        for name in ("stride", "anchors", "strides"):
            tensor = getattr(head, name, None)
            if isinstance(tensor, Tensor):
                setattr(head, name, stage.place_tensor(tensor))
        _place_loss(stage, model.criterion)


def _place_loss(stage: Stage, thing: Any) -> None:
    values = thing.__dict__
    for name, value in list(values.items()):
        if isinstance(value, Tensor):
            values[name] = stage.place_tensor(value)
        elif isinstance(value, torch.device):
            values[name] = stage.device
        elif name in ("one2many", "one2one", "assigner", "keypoint_loss"):
            _place_loss(stage, value)
    if "assigner" in values:
        stage.answers.watch(values["assigner"])
        stage.chunked(values["assigner"])


@contextmanager
def looping(groups: int) -> Iterator[None]:
    """A loss that loops over images takes only so many turns; 0 is all of them."""
    from ultralytics.utils import loss

    if not groups:
        yield
        return

    def some(*values: Any, strict: bool = False) -> Any:
        rows = zip(*values, strict=strict)
        is_loop = bool(values) and isinstance(values[0], Tensor)
        return (row for n, row in enumerate(rows) if n < groups) if is_loop else rows

    loss.zip = some
    try:
        yield
    finally:
        del loss.zip


@contextmanager
def without_first_weights() -> Iterator[None]:
    """Layers are made without drawing or fetching weights: nothing reads them, and time is saved.

    Architectures that build on torchvision's networks ask it for trained ones, from the internet.
    A new model runs once to learn its strides, for which convolutions need not be computed.
    """
    names = ("kaiming_uniform_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_")
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    get_model, convolve = torchvision.models.get_model, nn.Conv2d._conv_forward

    def of_shape(layer: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            return convolve(layer, given, weight, bias)
        sizes = (
            (size + 2 * pad - gap * (width - 1) - 1) // step + 1
            for size, width, step, pad, gap in zip(
                given.shape[2:],
                layer.kernel_size,
                layer.stride,
                layer.padding,
                layer.dilation,
                strict=True,
            )
        )
        return given.new_zeros((given.shape[0], layer.out_channels, *sizes))

    torchvision.models.get_model = lambda name, **_: get_model(name, weights=None)
    kind: Any = nn.Conv2d
    kind._conv_forward = of_shape
    try:
        yield
    finally:
        kind._conv_forward = convolve
        torchvision.models.get_model = get_model
        for name, function in kept.items():
            setattr(nn.init, name, function)
