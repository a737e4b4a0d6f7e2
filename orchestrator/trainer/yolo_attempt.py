"""One attempt at a YOLO model: what ultralytics' loop needs of us, and the way out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.ports import Device, RunLink
from orchestrator.trainer.choices import Choices
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.options_ddp import DdpOptions
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.ranks import Ranks
from orchestrator.types import TrainTask

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Attempt", "Leave"]


class Leave(Exception):  # noqa: N818 - not an error: it unwinds ultralytics' loop
    """The gang was asked to leave, and leaves here."""


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What the loop needs of us, and what it remembers of the best epoch."""

    task: TrainTask
    device: Device
    link: RunLink
    governor: Governor
    ranks: Ranks
    ddp: DdpOptions = field(default_factory=DdpOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    state: Mapping[str, Any] | None = None
    base: str = ""  # the hash of the checkpoint from which the next epoch begins
    kept: Mapping[str, Any] | None = None  # what an attempt before has kept of that epoch
    weights: Mapping[str, "Tensor"] | None = None  # of the run before, for a fresh start
    best: dict[str, Any] = field(default_factory=dict)
    choices: Choices = field(default_factory=Choices)

    @property
    def run_folder(self) -> Path:
        """Where people look."""
        return Path(self.task.spec.folder)
