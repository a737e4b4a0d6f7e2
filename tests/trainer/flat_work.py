"""One rank of two that averages its gradients, in a process of its own; imports little."""

import os
from typing import Any

import torch
from torch import distributed, nn

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.yolo_ranks import average_gradients
from orchestrator.types import Card

__all__ = ["flat_work", "model"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 500), nn.Linear(500, 7))


def flat_work(rank: int, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    card = Card(index=0, name="card", memory_bytes=1 << 30, is_emulated=True)
    device = EmulatedDevice(card, 1 << 30)
    with device.session():
        mine = model()
        mine(torch.full((2, 300), float(rank + 1))).sum().backward()
        alone = next(mine.parameters()).grad
        assert alone is not None
        before, own = device.live_bytes(), float(alone.sum())
        device.reset_peak()
        del alone
        average_gradients(mine, 2)
        peak, after = device.peak_bytes(), device.live_bytes()
        found = next(mine.parameters()).grad
        assert found is not None
        mean = float(found.sum())
    answers.put((rank, before, peak, after, own, mean))
    distributed.destroy_process_group()
