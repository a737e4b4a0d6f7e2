"""The one place that picks implementations: trainers, devices and checkpoints by name."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from orchestrator.client.names import scratch_root
from orchestrator.cluster.layout import told_cards
from orchestrator.errors import ConfigError, PlanError
from orchestrator.ports import Checkpoints, Device, StoredRun, Trainer
from orchestrator.types import AttemptId, Bytes, Card, RunSpec, Seconds

__all__ = ["LocalParts", "list_cards"]

# Set in every worker, whatever it trains: a dependency of a trainer may import ultralytics, which
# otherwise unpickles weights, installs packages and reports home while a run is under way.
_ALWAYS = {
    "ULTRALYTICS_SAFE_LOAD": "true",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "NO_COLOR": "1",  # its output is a file
    "PYTHONUNBUFFERED": "1",  # for the processes that a trainer starts
}

_NEEDED = {  # by trainer: what its trainings import sooner or later
    # not ultralytics, which keeps its settings where the first run of a process tells it to
    "yolo": ("torch", "torch.utils.data", "torchvision", "cv2", "matplotlib"),
    "timm": ("orchestrator.trainer.choices", "orchestrator.trainer.timm_run", "timm"),
}


# What all processes of a trainer can share: it reads no variable that differs. A trace, which the
# first trial waits for, needs the first part alone.
_FORKED = {
    "yolo": ("torch", "torch.utils.data", "torchvision", "cv2"),
    "timm": ("torch", "torch.utils.data", "torchvision", "PIL.Image"),
}
_FORKED_LATER = {
    "yolo": ("matplotlib", "torch._inductor.config", "orchestrator.trainer.yolo_loop"),
}


def list_cards() -> Sequence[Card]:
    """The cards of the Ray node it runs on: emulated ones where `orc up` said so, else real."""
    told = told_cards(os.environ)
    if told is not None:
        return told
    from orchestrator.device import nvml

    return nvml.cards()


class LocalParts:
    """Implements Parts. It travels to a worker as its name and the threads that a person chose."""

    def __init__(self) -> None:
        self._threads = os.environ.get("OMP_NUM_THREADS")  # of the driver; Ray sets it in workers

    def trainer(self, name: str) -> Trainer:
        """The trainer `yolo`, `timm` or `fake`.

        Raises:
            ConfigError: There is no such trainer, or its library is not installed.
        """
        if name == "yolo":
            from orchestrator.trainer.yolo import YoloTrainer

            return YoloTrainer()
        if name == "timm":
            from orchestrator.trainer.timm import TimmTrainer

            return TimmTrainer()
        if name == "fake":
            from orchestrator.trainer.fake import FakeTrainer

            return FakeTrainer()
        raise ConfigError(
            f"there is no trainer {name!r}", code="E1091", fix=("one of: yolo, timm, fake",)
        )

    def device(self, card: Card | None, budget_bytes: Bytes) -> Device:
        """The device of a share: a real card, an emulated one, or the CPU.

        Raises:
            PlanError: E2020, a share of a real card holds less than the CUDA context.
        """
        _without_compiler(card)
        _hold_threads()
        if card is None:
            from orchestrator.device.cpu import CpuDevice

            return CpuDevice()
        if card.is_emulated:
            from orchestrator.device.emulated import EmulatedDevice

            return EmulatedDevice(card, budget_bytes)
        from orchestrator.device.cuda import CudaDevice

        return CudaDevice(card, budget_bytes - _outside_bytes(card, budget_bytes))

    def get_ready(self, trainer: str, card: Card | None) -> None:
        """Import what the trainer will need, some seconds' worth: torch, and what goes with it."""
        _without_compiler(card)
        for module in _NEEDED.get(trainer, ()):
            importlib.import_module(module)

    def get_ready_to_fork(self, trainer: str) -> None:
        """Import what the trainer's processes on emulated cards share with traces."""
        _without_compiler(None)
        for module in _FORKED.get(trainer, ()):
            importlib.import_module(module)

    def get_more_to_fork(self, trainer: str) -> Sequence[Callable[[], object]]:
        """Import, a piece at a time, what they share beside that."""
        modules = _FORKED_LATER.get(trainer, ())
        return [partial(importlib.import_module, module) for module in modules]

    def checkpoints(self, folder: str) -> Checkpoints:
        """The checkpoints of the run whose folder this is."""
        from orchestrator.store.checkpoints import FileCheckpoints

        return FileCheckpoints(folder)

    def stored(self, spec: RunSpec, attempt: AttemptId, rank: int) -> StoredRun:
        """The part here of a run that is kept at an address; `ORC_SCRATCH` says where on a node."""
        from orchestrator.store.stored import ScratchRun

        return ScratchRun(spec, attempt, rank, root=scratch_root())

    def environment(self, card: Card | None, num_cpus: float) -> Mapping[str, str]:
        """Variables to set before torch is imported; OMP_NUM_THREADS of the driver goes first."""
        from orchestrator.device.environment import environment

        variables = {**_ALWAYS, **environment(card, num_cpus)}
        if self._threads:
            variables |= {"OMP_NUM_THREADS": self._threads, "MKL_NUM_THREADS": self._threads}
        return variables

    def process_group(
        self, card: Card | None, *, listener: int | None, timeout: Seconds
    ) -> AbstractContextManager[None]:
        """NCCL between real cards, gloo between CPUs that pose as some."""
        from orchestrator.device.ranks import process_group

        return process_group(card, listener=listener, timeout=timeout)


def _hold_threads() -> None:
    """As many threads as the process was told: a forked one has torch from before it was told."""
    torch, told = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and told.isdigit():
        torch.set_num_threads(int(told))


def _without_compiler(card: Card | None) -> None:
    if card is None or card.is_emulated:
        from orchestrator.device.eager import stand_in_for_compiler

        stand_in_for_compiler()  # hardly anything is compiled for a CPU


def _outside_bytes(card: Card, budget_bytes: Bytes) -> Bytes:
    """What the process takes of its share beside torch's allocator, which is held to the rest."""
    from orchestrator.device.catalogue import find_card
    from orchestrator.plan.overheads import overheads

    try:
        architecture = find_card(card.name).architecture
    except ConfigError:
        architecture = "custom"  # a card that the catalogue does not have counts as the worst
    outside = overheads(architecture).outside_bytes
    if outside >= budget_bytes:
        raise PlanError(
            f"{budget_bytes >> 20} MiB of {card.name} do not hold a training",
            code="E2020",
            why=(f"the CUDA context of a process alone takes about {outside >> 20} MiB",),
            fix=("ask for more: resources.memory",),
        )
    return outside
