"""Parts without torch, for workers of real Rays: small checkpoints, trainers that misbehave."""

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from orchestrator.client.names import scratch_root
from orchestrator.device.fake import FakeDevice
from orchestrator.errors import DataError, StoreError, TrainingError
from orchestrator.ports import Checkpoints, Device, RunLink, StoredRun, Trainer
from orchestrator.store.stored import ScratchRun
from orchestrator.trainer.fake import FakeTrainer
from orchestrator.types import (
    AttemptId,
    Bytes,
    Card,
    Cause,
    CheckpointRef,
    Metrics,
    Outcome,
    Progress,
    RunSpec,
    TrainTask,
)

__all__ = ["EmulatedCards", "FakeParts", "PlainCheckpoints", "TogetherTrainer", "together", "void"]

GIB = 1024**3
EmulatedCards = tuple(
    Card(index=index, name=f"Card {index}", memory_bytes=(6 + 2 * index) * GIB, is_emulated=True)
    for index in range(2)
)


class PlainCheckpoints:
    """Writes checkpoints with a hash; keeps them all."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) / "checkpoints"

    def write(
        self,
        attempt: AttemptId,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        assert not step, "these trainers keep nothing within an epoch"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{attempt.number}-{epoch}.json"
        with path.open("wb") as file:
            write(file)
        with path.open("rb") as file:
            check(file)
        return CheckpointRef(
            attempt=attempt,
            epoch=epoch,
            path=str(path),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            num_bytes=path.stat().st_size,
            is_best=is_best,
        )

    def unfinished(self, attempt: AttemptId, epoch: int) -> CheckpointRef | None:
        return None

    def verify(self, ref: CheckpointRef) -> bool:
        path = Path(ref.path)
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == ref.sha256


class RaisingTrainer:
    """Raises what the run's model names."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        raise _FAULTS[task.spec.settings.model]


_FAULTS: dict[str, Exception] = {
    "nan": TrainingError("the loss is NaN", cause=Cause.NAN_LOSS, code="E2110"),
    "data": DataError("no pictures", code="E3001", why=("0 files",), fix=("add pictures",)),
    "store": StoreError("the disk has no room", code="E5004"),
    "disk": OSError(28, "No space left on device"),
    "host": MemoryError("no host memory"),
    "device": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "mistake": KeyError("lr0"),
}


class TellingTrainer:
    """Prints what it sees of its process, and tells it as metrics."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        print("printed by Python", flush=True)  # noqa: T201 - what is tested is where it goes
        os.write(2, b"printed by a library\n")
        os.system("echo printed by a child")  # noqa: S605 - a fixed command, on purpose
        metrics = {
            "had_torch": float("torch" in sys.modules),
            "omp": float(os.environ["OMP_NUM_THREADS"]),
            "sees_cards": float(os.environ.get("CUDA_VISIBLE_DEVICES", "all") != ""),
        }
        link.report(Progress(epoch=1, epochs=1, metrics=metrics, seconds=0.1, num_images=1), None)
        return Outcome.FINISHED, metrics


class GreedyTrainer:
    """Takes host memory until somebody ends it."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20) * 64))


class StuckTrainer:
    """Neither reports nor listens."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        threading.Event().wait()
        raise AssertionError("nobody sets the event")


class TogetherTrainer:
    """Ranks that add up a number every step, and leave at one step; faults by rank on request.

    `die_rank`, `hang_rank` and `raise_rank` strike in the first attempt, in epoch 2.
    """

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        begin = 0 if link.resume_from is None else link.resume_from.epoch
        epochs = task.spec.settings.epochs
        total = 0.0
        for epoch in range(begin + 1, epochs + 1):
            for _ in range(5):
                self._strike(task, epoch)
                is_asked, total = together(task, link.stop_requested() is not None)
                if is_asked:
                    self._tell(task, "left", epoch)
                    return Outcome.YIELDED, {}
                threading.Event().wait(0.02)
            if task.rank == 0:
                ref = link.save(
                    epoch, lambda file: void(file.write(b"x")), is_best=True, check=void
                )
                progress = Progress(
                    epoch=epoch,
                    epochs=epochs,
                    metrics={"ranks": total},
                    seconds=0.2 / task.batch.world_size,
                    num_images=8,
                )
                link.report(progress, ref)
        self._tell(task, "finished", epochs)
        return Outcome.FINISHED, {"ranks": total}

    def _strike(self, task: TrainTask, epoch: int) -> None:
        options = task.spec.settings.options
        if task.attempt.number > 1 or epoch != 2:
            return
        pause = threading.Event()
        if options.get("die_rank") == task.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.get("hang_rank") == task.rank:
            pause.wait()
        if options.get("raise_rank") == task.rank:
            pause.wait(0.2)
            raise KeyError("lr0")

    def _tell(self, task: TrainTask, what: str, epoch: int) -> None:
        Path(task.spec.folder, f"{what}.{task.rank}").write_text(str(epoch))


def together(task: TrainTask, is_asked: bool) -> tuple[bool, float]:
    """What rank 0 was asked, and how many ranks there are, by a sum over them."""
    if task.batch.world_size == 1:
        return is_asked, 1.0
    import torch
    from torch import distributed

    assert distributed.get_rank() == task.rank == int(os.environ["RANK"])
    asked = [is_asked]
    distributed.broadcast_object_list(asked, src=0)
    total = torch.ones(())
    distributed.all_reduce(total)
    return asked[0], float(total)


def void(_: object) -> None:
    """Take something and do nothing with it."""


class FakeParts:
    """Implements Parts with a fake device of the share's size."""

    def trainer(self, name: str) -> Trainer:
        known: dict[str, Callable[[], Trainer]] = {
            "fake": FakeTrainer,
            "raising": RaisingTrainer,
            "telling": TellingTrainer,
            "greedy": GreedyTrainer,
            "stuck": StuckTrainer,
            "together": TogetherTrainer,
        }
        return known[name]()

    def device(self, card: Card | None, budget_bytes: Bytes) -> Device:
        device = FakeDevice(budget_bytes)
        device.allocate(budget_bytes // 2)  # so that there is a peak to be reported
        return device

    def get_ready(self, trainer: str, card: Card | None) -> None:
        """Nothing: these trainers import nothing large."""

    def checkpoints(self, folder: str) -> Checkpoints:
        return PlainCheckpoints(folder)

    def stored(self, spec: RunSpec, attempt: AttemptId, rank: int) -> StoredRun:
        return ScratchRun(spec, attempt, rank, root=scratch_root())

    def process_group(
        self, card: Card | None, *, listener: int | None, timeout: float
    ) -> AbstractContextManager[None]:
        from orchestrator.device.ranks import process_group

        return process_group(card, listener=listener, timeout=timeout)

    def environment(self, card: Card | None, num_cpus: float) -> Mapping[str, str]:
        return {"OMP_NUM_THREADS": str(int(num_cpus)), "CUDA_VISIBLE_DEVICES": ""}
