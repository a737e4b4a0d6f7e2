"""Measuring a run for a few steps in this process: a link that watches the peak, then leaves."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    TrainSettings,
    TrainTask,
)

__all__ = ["Watch", "measure"]

_EPOCHS = 1000  # more than are needed, and so many that no trainer is in its last epochs


@dataclass
class Watch:
    """A RunLink that lets steps and a validation pass, looking at the peaks, and then leaves.

    Trainers ask for a stop at every batch boundary of training, and once after an epoch: that is
    what counts the steps. An epoch has as many of them as the first sign of life says; who asks
    more often in it, asks between batches of validation, and is told to leave after one of them.
    """

    attempt: AttemptId
    device: Device
    steps: int
    micro_batch: int
    peak_bytes: Bytes = 0
    peak_reserved_bytes: Bytes = 0
    has_validation: bool = False
    resume_from: CheckpointRef | None = None
    _before: int = 0  # steps of epochs that are complete
    _asked: int = 0  # in this epoch
    _in_epoch: int = 0  # steps of an epoch; 0 before the first
    _has_ended: bool = False  # an epoch has, and the trainer asks whether to begin another

    @property
    def num_steps(self) -> int:
        """Steps that were completed."""
        return max(0, self._before + min(max(0, self._asked - 1), self._in_epoch))

    def stop_requested(self) -> StopMode | None:
        """Leave once enough steps have passed, and validation or a batch of it."""
        self._look(self.device.peak_bytes(), self.device.peak_reserved_bytes())
        if self._has_ended:
            self._has_ended = False
        else:
            self._asked += 1
            if self._in_epoch and self._asked > self._in_epoch + 1:
                self.has_validation = True
        is_enough = self.has_validation and self.num_steps >= self.steps
        return StopMode.ABANDON if is_enough else None

    def step(self, step: StepProgress) -> None:
        """Says how many steps an epoch has."""
        self._in_epoch = step.num_steps

    def recut(self, recut: Recut) -> None:
        """Measure anew: peaks belong to one cut. Validation that was cut keeps what it took."""
        if not recut.in_validation:
            self.micro_batch = recut.new
            self.peak_bytes = self.peak_reserved_bytes = 0
            self._before, self.has_validation = -min(self._asked, self._in_epoch), False

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """A short epoch has ended within the steps; nothing is kept of it."""
        del write, check, step
        return CheckpointRef(
            attempt=self.attempt, epoch=epoch, path="", sha256="", num_bytes=0, is_best=is_best
        )

    def unfinished(self) -> CheckpointRef | None:
        """Nothing."""
        return None

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """A short epoch has ended, its validation measured."""
        del checkpoint
        self._look(progress.peak_bytes, progress.peak_reserved_bytes)
        self.has_validation = self._has_ended = True
        self._before += self._in_epoch
        self._asked = 0

    def _look(self, peak: Bytes, peak_reserved: Bytes) -> None:
        self.peak_bytes = max(self.peak_bytes, peak)
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, peak_reserved)


def measure(spec: RunSpec, card: Card, parts: Parts, steps: int, *, num_images: int = 0) -> Peak:
    """Train `steps` steps of a run on a card and validate it, here and now; says what it took.

    Sets the environment of this process as a worker's: call it before torch is imported.

    Args:
        spec: The run; its folder is there.
        card: The card; an emulated one computes on the CPU.
        parts: The implementations by name.
        steps: At least 3, since the first has no optimizer state yet.
        num_images: Pictures to train with; where it is 0, a whole epoch precedes validation.

    Raises:
        TrainingError: The run failed, by running out of memory for instance.
    """
    os.environ.update(parts.environment(card, 0.0))
    at = time.time()
    attempt = AttemptId(run_id=spec.run_id, number=1)
    batch = plan_batch(spec)
    device = parts.device(card, spec.memory_bytes or card.memory_bytes)
    watch = Watch(attempt=attempt, device=device, steps=steps, micro_batch=batch.micro_batch)
    short = replace(spec, settings=_short(spec, steps, num_images))
    task = TrainTask(attempt=attempt, spec=short, batch=batch, folder=spec.folder)
    with device.session():
        parts.trainer(spec.trainer).fit(task, device, watch)
    seen = Progress(
        epoch=1,
        epochs=1,
        metrics={},
        seconds=time.time() - at,
        num_images=watch.num_steps * spec.effective_batch,
        peak_bytes=watch.peak_bytes,
        peak_reserved_bytes=watch.peak_reserved_bytes,
        micro_batch=watch.micro_batch,
    )
    row = peak_of(spec, card, seen, 1, str(attempt), at)
    return replace(row, has_validation=row.has_validation and watch.has_validation)


def _short(spec: RunSpec, steps: int, num_images: int) -> TrainSettings:
    """Settings of epochs of `steps` steps, so that validation comes soon, and of enough of them.

    Both trainers call the part of the training pictures that they use `fraction`.
    """
    settings, options = spec.settings, dict(spec.settings.options)
    own = options.get("fraction", 1.0)
    needed = steps * spec.effective_batch
    if isinstance(own, float) and needed < own * num_images:
        options["fraction"] = needed / num_images
    epochs = max(settings.epochs, _EPOCHS)
    return replace(settings, epochs=epochs, patience=0, options=options)
