"""Measuring a run for a few steps in this process: a link that watches the peak, then leaves."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from orchestrator.memory.book import peak_of
from orchestrator.messages import Recut
from orchestrator.plan.batch import plan_batch
from orchestrator.plan.correct import Peak
from orchestrator.ports import Device, Parts
from orchestrator.types import (
    AttemptId,
    Bytes,
    Card,
    CheckpointRef,
    Progress,
    RunSpec,
    StepProgress,
    StopMode,
    TrainTask,
)

__all__ = ["Watch", "measure"]


@dataclass
class Watch:
    """A RunLink that lets so many steps pass, looking at the peak, and asks the trainer to leave.

    Trainers ask for a stop at every batch boundary: that is what counts the steps.
    """

    attempt: AttemptId
    device: Device
    steps: int
    num_asked: int = 0
    peak_bytes: Bytes = 0
    resume_from: CheckpointRef | None = None

    @property
    def num_steps(self) -> int:
        """Steps that were completed."""
        return max(0, self.num_asked - 1)

    def stop_requested(self) -> StopMode | None:
        """Leave once enough steps have passed."""
        self.num_asked += 1
        self.peak_bytes = max(self.peak_bytes, self.device.peak_bytes())
        return StopMode.AT_BATCH if self.num_asked > self.steps else None

    def step(self, step: StepProgress) -> None:
        """A sign of life; nobody watches."""
        del step

    def recut(self, recut: Recut) -> None:
        """The step was cut otherwise; the peak counts all the same."""
        del recut

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
    ) -> CheckpointRef:
        """A short epoch has ended within the steps; nothing is kept of it."""
        del write, check
        return CheckpointRef(
            attempt=self.attempt, epoch=epoch, path="", sha256="", num_bytes=0, is_best=is_best
        )

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """A short epoch has ended, its validation measured."""
        del checkpoint
        self.peak_bytes = max(self.peak_bytes, progress.peak_bytes)


def measure(spec: RunSpec, card: Card, parts: Parts, steps: int) -> Peak:
    """Train `steps` steps of a run on a card, here and now, and say what it took.

    Sets the environment of this process as a worker's: call it before torch is imported.

    Args:
        spec: The run; its folder is there.
        card: The card; an emulated one computes on the CPU.
        parts: The implementations by name.
        steps: At least 3, since the first has no optimizer state yet.

    Raises:
        TrainingError: The run failed, by running out of memory for instance.
    """
    os.environ.update(parts.environment(card, 0.0))
    at = time.time()
    attempt = AttemptId(run_id=spec.run_id, number=1)
    batch = plan_batch(spec)
    device = parts.device(card, spec.memory_bytes or card.memory_bytes)
    watch = Watch(attempt=attempt, device=device, steps=steps)
    task = TrainTask(attempt=attempt, spec=spec, batch=batch, folder=spec.folder)
    with device.session():
        parts.trainer(spec.trainer).fit(task, device, watch)
    seen = Progress(
        epoch=1,
        epochs=1,
        metrics={},
        seconds=time.time() - at,
        num_images=watch.num_steps * spec.effective_batch,
        peak_bytes=watch.peak_bytes,
        micro_batch=batch.micro_batch,
    )
    return peak_of(spec, card, seen, 1, str(attempt), at)
