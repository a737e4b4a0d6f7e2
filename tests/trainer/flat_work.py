"""One rank of two that sums its gradients, in a process of its own; imports little."""

import torch
from torch import nn

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.reduction import Reduction
from orchestrator.types import Card, Scalar

__all__ = ["flat_work", "model"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 500), nn.Linear(500, 7))


def flat_work(rank: int, options: dict[str, Scalar]) -> tuple[int, int, float, float]:
    """What the sums take while a step runs, its own first gradient, and the sum of all ranks'."""
    card = Card(index=0, name="card", memory_bytes=1 << 30, is_emulated=True)
    device = EmulatedDevice(card, 1 << 30)
    with device.session():
        mine = model()
        images = torch.full((2, 300), float(rank + 1))
        mine(images).sum().backward()
        alone = next(mine.parameters()).grad
        assert alone is not None
        own = float(alone.sum())
        before = device.live_bytes()  # with gradients, as a step on one rank has them
        del alone
        mine.zero_grad(set_to_none=True)
        reduction = Reduction(mine.parameters(), ddp_options(options)[0], 2)
        reduction.begin()
        loss = mine(images).sum()
        with reduction.sending():
            loss.backward()
        del loss
        reduction.complete()
        found = next(mine.parameters()).grad
        assert found is not None
        return before, device.live_bytes(), own, float(found.sum())
