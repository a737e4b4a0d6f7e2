"""One rank of two that runs out of memory, in a process of its own; imports little."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import TrainingError
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.step_state import StepState
from orchestrator.types import BatchPlan, Card, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of

__all__ = ["rank_work"]

CARD = Card(index=0, name="RTX 2060", memory_bytes=1 << 30, is_emulated=True)
PLAN = BatchPlan(effective_batch=16, world_size=2, micro_batch=8)


def rank_work(rank: int, folder: str, port: int, answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    settings = TrainSettings(model="m", data="none", imgsz=32, epochs=1)
    task = replace(attempt_of(settings, Path(folder) / str(rank), batch=PLAN), rank=rank)
    link = RecordingLink(Path(folder) / "c")
    device = EmulatedDevice(CARD, CARD.memory_bytes)
    governor = Governor(task, device, link, MemoryOptions(), agree=Ranks(PLAN, rank).most_and_least)
    state = StepState(nn.Linear(1, 1), torch.device("cpu"))

    def fits(limit: int) -> Callable[[int], int]:
        def work(size: int) -> int:
            if size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return size

        return work

    governor.epoch_begins(1)
    first = governor.step(fits(99), state)
    second = governor.step(fits(2 if rank else 5), state)
    with device.session():
        room = governor.has_room(CARD.memory_bytes * (2 if rank else 0) + 8)
    try:
        governor.step(fits(0 if rank else 99), state)
        last = "went on"
    except TrainingError as error:
        last = str(error.cause)
    answers.put((rank, first, second, room, last, [(r.old, r.new) for r in link.recuts]))
    distributed.destroy_process_group()
