"""What a step changes before its optimizer: chance, running statistics, gradients; put back."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from orchestrator.trainer.reduction import Reduction

__all__ = ["StepState", "statistics_kept"]


class StepState:
    """Remembers a model's running statistics and all chance, so that a step can be repeated.

    The optimizer, the loss scale and the averaged weights change only after every piece has run,
    and are not touched here. Gradients are dropped by `restore`: a step begins without any.

    Args:
        model: In the place where it trains; its buffers are updated in place from now on.
        device: Where it trains.
        reduction: Of the gradients of a gang; None where there is one rank.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, reduction: Reduction | None = None
    ) -> None:
        self._model = model
        self._reduction = reduction
        self._device = device
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._live = _by_type(
            buffer.reshape(-1)  # a view: what is written to it is written to the buffer
            for norm in norms
            for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
            if buffer is not None
        )
        self._kept = [torch.cat(group) for group in self._live]

    def keep(self) -> None:
        """Remember everything as it is now; waits for nothing."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch.cat(live, out=kept)
        self._python = random.getstate()
        self._torch = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda = torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        """Put everything back as it was at `keep`, and drop the gradients."""
        if self._reduction is not None:
            self._reduction.abandon()
        self._model.zero_grad(set_to_none=True)
        torch.clear_autocast_cache()  # weights that were cast for the step, with their graph
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept.split([tensor.numel() for tensor in live]))
        random.setstate(self._python)
        torch.set_rng_state(self._torch)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda, self._device)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch statistics are used as in training, but not averaged into the running ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [m for m in norms if m.training and m.track_running_stats]
    for module in tracked:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracked:
            module.track_running_stats = True


def _by_type(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Lists of one type each: only such a list is joined by one kernel."""
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return list(groups.values())
