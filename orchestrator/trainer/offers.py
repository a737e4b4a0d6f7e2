"""What a training can give up while it runs, as far as both trainers do it alike."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer

from orchestrator.plan.ladder import Rung, size_below
from orchestrator.plan.sharded import refusal
from orchestrator.trainer.optimizer_place import (
    EIGHT_BIT,
    HostMemory,
    can_lie_on_host,
    moved_to_host,
)
from orchestrator.trainer.options_memory import MemoryOptions, can_8bit
from orchestrator.trainer.rungs import Offer, Rungs
from orchestrator.types import RunSpec

__all__ = ["offer_classifier", "offer_optimizer", "offer_shard", "offer_size"]


def offer_optimizer(rungs: Rungs, optimizer: Optimizer, host: HostMemory) -> None:
    """State on the host at any moment; in 8 bits for an attempt that begins anew.

    8 bits are another optimizer object, which a schedule and a loss scale do not know, and its
    state cannot be read from a checkpoint of 32 bits: so only before the first update, and only
    by another attempt.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def on_host() -> str | None:
        # Between a failed step and its repetition there are no gradients: without state, too,
        # nothing would be won.
        has_use = bool(optimizer.state) or any(p.grad is not None for p in parameters)
        return "host" if has_use and can_lie_on_host(optimizer) else None

    def in_8_bits() -> str | None:
        is_possible = can_8bit() and type(optimizer).__name__ in EIGHT_BIT
        is_fresh = not optimizer.state
        return "8bit" if is_fresh and is_possible and all(p.is_cuda for p in parameters) else None

    rungs.offer(Rung.OPTIMIZER_8BIT, Offer(setting=in_8_bits))
    rungs.offer(
        Rung.OPTIMIZER_HOST,
        Offer(setting=on_host, take=lambda: moved_to_host(optimizer, host)),
    )


def offer_classifier(
    rungs: Rungs,
    *,
    half: torch.dtype,
    halve: Callable[[], None],
    checkpoint: Callable[[], None] | None,
) -> None:
    """Half precision and gradient checkpointing, from the next forward pass on.

    Args:
        rungs: Of the training.
        half: What `halve` makes it compute in; fp32 where there is nothing to win.
        halve: Does it.
        checkpoint: Does the other; None where the model cannot, or does it already.
    """
    if half is not torch.float32:
        name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[half]
        rungs.offer(Rung.AMP, Offer(setting=lambda: name, take=halve))
    if checkpoint is not None:
        rungs.offer(Rung.CHECKPOINTING, Offer(setting=lambda: "on", take=checkpoint))


def offer_size(rungs: Rungs, imgsz: int, options: MemoryOptions) -> None:
    """Smaller pictures, one step down, where the config allows them: the loaders are made anew."""
    size, least = size_below(imgsz), options.least_imgsz
    if least is not None and size >= least:
        rungs.offer(Rung.IMGSZ, Offer(setting=lambda: str(size)))


def offer_shard(rungs: Rungs, spec: RunSpec) -> None:
    """Parts of weights and optimizer state on each rank of a gang that can: with the next attempt.

    Every rank offers it or none does; the checkpoint of a whole model goes on split.
    """
    if not refusal(spec):
        rungs.offer(Rung.SHARD, Offer(setting=lambda: "card"))
