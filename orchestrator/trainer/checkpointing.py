"""Gradient checkpointing: layers are computed again in the backward pass instead of kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from orchestrator.errors import ConfigError

__all__ = ["can_checkpoint", "checkpoint_timm", "checkpoint_yolo", "statistics_still"]


def checkpoint_timm(model: Any, name: str) -> tuple[nn.Module, ...]:
    """Let a timm model compute its stages again, at the places that timm itself has chosen.

    Returns:
        The layers that `statistics_still` has to be told of.

    Raises:
        ConfigError: E1122, this model has no such places.
    """
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(
            f"{name} has no gradient checkpointing",
            code="E1122",
            why=(str(error) or "timm does not offer it for this network",),
            fix=("grad_checkpointing: false", "a smaller micro_batch saves activations as well"),
        ) from error
    return _norms_of(model)


def can_checkpoint(model: Any) -> bool:
    """True where timm knows places of the model for it. Leaves it off."""
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, TypeError):
        return False
    model.set_grad_checkpointing(False)
    return True


def checkpoint_yolo(model: Any) -> tuple[nn.Module, ...]:
    """Every layer but the head is computed again; what layers hand to each other is kept.

    Call it when copies of the model (averaged weights) are made: they would be wrapped as well.

    Returns:
        The layers that `statistics_still` has to be told of.
    """
    layers: list[nn.Module] = list(model.model)[:-1]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return _norms_of(model)


def _norms_of(model: nn.Module) -> tuple[nn.Module, ...]:
    """The layers of a model that average what they see into running statistics."""
    return tuple(
        module
        for module in model.modules()
        if module._buffers.get("running_var") is not None and hasattr(module, "momentum")
    )


@contextmanager
def statistics_still(norms: Sequence[Any]) -> Iterator[None]:
    """For a backward pass: layers that are computed again count no batch a second time.

    The running statistics stay arguments of the kernels, which save them, so that what is saved
    twice is alike; with a momentum of 0 they get back the values that they have.
    """
    kept = [(norm, norm.momentum, norm._buffers.get("num_batches_tracked")) for norm in norms]
    for norm, _, counted in kept:
        norm.momentum = 0.0
        if counted is not None:
            norm._buffers["num_batches_tracked"] = None
    try:
        yield
    finally:
        for norm, momentum, counted in kept:
            norm.momentum = momentum
            if counted is not None:
                norm._buffers["num_batches_tracked"] = counted
