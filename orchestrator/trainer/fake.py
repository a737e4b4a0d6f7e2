"""A Trainer whose loss and memory are formulas, with faults on request; for tests and drills."""

import json
import math
import os
import random
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import ConfigError, TrainingError
from orchestrator.ports import Device, RunLink
from orchestrator.types import (
    Bytes,
    Cause,
    Metrics,
    Outcome,
    Progress,
    Scalar,
    StepProgress,
    StopMode,
    TrainTask,
)

__all__ = ["FakeOptions", "FakeTrainer"]

_REAL = ("epoch_seconds", "best_lr0")  # options that need not be whole numbers
_CRASH_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeOptions:
    """What `settings.options` may say to the fake trainer.

    The planted faults strike in attempts up to `fault_attempts`; a crash and a hang by default only
    in the first, every other fault in all of them. Zero means never.
    """

    epoch_seconds: float = 0.0
    steps_per_epoch: int = 4
    images_per_epoch: int = 64
    fixed_bytes: int = 0  # peak = fixed_bytes + bytes_per_sample * micro_batch
    bytes_per_sample: int = 0
    fail_at_epoch: int = 0
    nan_at_epoch: int = 0
    crash_at_epoch: int = 0
    hang_at_epoch: int = 0
    oom_above_micro_batch: int = 0
    fault_attempts: int = 0
    best_lr0: float = 0.0  # the loss grows with the distance of lr0 from it, and of batch from 64

    @classmethod
    def of(cls, task: TrainTask) -> "FakeOptions":
        """Read the options of a task.

        Raises:
            ConfigError: an option is unknown or not a number.
        """
        given = task.spec.settings.options
        known = {field.name for field in fields(cls)}
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"the fake trainer has no option {name!r}",
                    code="E1101",
                    fix=(f"one of: {', '.join(sorted(known))}",),
                )
        numbers = {name: _number(name, value) for name, value in given.items()}
        seconds, best = (numbers.pop(name, 0.0) for name in _REAL)
        whole = {name: int(n) for name, n in numbers.items()}
        return cls(epoch_seconds=seconds, best_lr0=best, **whole)

    def strikes(self, fault: str, task: TrainTask) -> bool:
        """True when the fault is planted in this attempt."""
        is_brief = fault in ("crash_at_epoch", "hang_at_epoch")
        default = 1 if is_brief else task.attempt.number
        return bool(getattr(self, fault)) and task.attempt.number <= (
            self.fault_attempts or default
        )


class FakeTrainer:
    """Counts epochs, saves a small JSON after each, and leaves when it is asked to."""

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        """Train by formula from `link.resume_from` on.

        The loss depends on the seed and the epoch alone, so a run that was cut in pieces, moved
        or resumed ends with the same numbers as one that was left alone.

        Raises:
            ConfigError: an unknown option.
            TrainingError: a planted fault, or a peak that is larger than the device's memory.
            ValueError: the planted mistake of a user.
        """
        options = FakeOptions.of(task)
        peak = options.fixed_bytes + options.bytes_per_sample * task.batch.micro_batch
        best = _resume(link)
        epochs = task.spec.settings.epochs
        _check_memory(task, device, options, peak)
        for epoch in range(best.epoch + 1, epochs + 1):
            _strike(task, options, epoch)
            if not self._run_epoch(epoch, task, options, link):
                return Outcome.YIELDED, best.metrics
            best = best.after(epoch, _metrics(task, epoch))
            if task.rank == 0:
                _record(best, task, options, peak, link)
            if epoch < epochs and link.stop_requested() is not None:
                return Outcome.YIELDED, best.metrics
        return Outcome.FINISHED, best.metrics

    def _run_epoch(self, epoch: int, task: TrainTask, options: FakeOptions, link: RunLink) -> bool:
        """False when the gang was asked to leave at a batch boundary."""
        pause = threading.Event()
        seconds = options.epoch_seconds / options.steps_per_epoch
        for step in range(1, options.steps_per_epoch + 1):
            if link.stop_requested() in (StopMode.AT_BATCH, StopMode.ABANDON):
                return False
            if seconds > 0:
                pause.wait(seconds)
            images = options.images_per_epoch / options.steps_per_epoch
            link.step(
                StepProgress(
                    epoch=epoch,
                    epochs=task.spec.settings.epochs,
                    step=step,
                    num_steps=options.steps_per_epoch,
                    images_per_second=images / seconds if seconds > 0 else 0.0,
                    loss=_metrics(task, epoch)["loss"],
                )
            )
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a checkpoint of the fake trainer holds."""

    epoch: int = 0
    best_epoch: int = 0
    loss: float = math.inf
    score: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        return {"loss": self.loss, "score": self.score} if self.best_epoch else {}

    def after(self, epoch: int, metrics: Metrics) -> "_State":
        if metrics["loss"] < self.loss:
            return _State(epoch=epoch, best_epoch=epoch, **metrics)
        return _State(epoch=epoch, best_epoch=self.best_epoch, loss=self.loss, score=self.score)


def _resume(link: RunLink) -> _State:
    ref = link.resume_from
    return _State() if ref is None else _State(**json.loads(Path(ref.path).read_text()))


def _metrics(task: TrainTask, epoch: int) -> dict[str, float]:
    """Loss 2 / (1 + epoch) with 5 % of seeded noise; the score is its mirror image.

    With `best_lr0` both depend on the learning rate and the batch as well.
    """
    noise = random.Random(f"{task.spec.settings.seed}/{epoch}/loss").uniform(0.95, 1.05)
    loss = 2.0 / (1.0 + epoch) * noise
    best, rate = task.spec.settings.options.get("best_lr0"), task.spec.settings.lr0
    if isinstance(best, int | float) and best > 0 and rate:
        loss += math.log10(rate / best) ** 2 + 0.05 * math.log2(task.spec.effective_batch / 64) ** 2
    return {"loss": loss, "score": 1.0 / (1.0 + loss)}


def _record(
    state: _State, task: TrainTask, options: FakeOptions, peak: Bytes, link: RunLink
) -> None:
    text = json.dumps(
        {field.name: getattr(state, field.name) for field in fields(state)}, sort_keys=True
    )

    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    def check(file: BinaryIO) -> None:
        _State(**json.loads(file.read()))

    ref = link.save(state.epoch, write, is_best=state.best_epoch == state.epoch, check=check)
    progress = Progress(
        epoch=state.epoch,
        epochs=task.spec.settings.epochs,
        metrics=_metrics(task, state.epoch),
        seconds=options.epoch_seconds,
        num_images=options.images_per_epoch,
        peak_bytes=peak,
        micro_batch=task.batch.micro_batch,
    )
    link.report(progress, ref)


def _check_memory(task: TrainTask, device: Device, options: FakeOptions, peak: Bytes) -> None:
    memory = device.memory()
    room = memory.total_bytes - memory.foreign_bytes
    micro_batch = task.batch.micro_batch
    is_planted = (
        options.strikes("oom_above_micro_batch", task)
        and micro_batch > options.oom_above_micro_batch
    )
    if is_planted or peak > room:
        raise TrainingError(
            f"out of memory on {device.name} at micro-batch {micro_batch}",
            cause=Cause.OUT_OF_MEMORY,
            code="E2104",
            why=(f"the step needs {peak} bytes, {room} are there",)
            if peak > room
            else (f"planted above micro-batch {options.oom_above_micro_batch}",),
        )


def _strike(task: TrainTask, options: FakeOptions, epoch: int) -> None:
    if options.strikes("crash_at_epoch", task) and epoch >= options.crash_at_epoch:
        os._exit(_CRASH_EXIT_CODE)
    if options.strikes("hang_at_epoch", task) and epoch >= options.hang_at_epoch:
        _hang()
    if options.strikes("nan_at_epoch", task) and epoch >= options.nan_at_epoch:
        raise TrainingError(
            f"the loss became NaN in epoch {epoch}", cause=Cause.NAN_LOSS, code="E2110"
        )
    if options.strikes("fail_at_epoch", task) and epoch >= options.fail_at_epoch:
        raise ValueError(f"planted mistake in epoch {epoch}")


def _hang() -> None:
    """Neither report nor listen; the name is what a dump of the stacks shows."""
    threading.Event().wait()


def _number(name: str, value: Scalar) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (name not in _REAL and not isinstance(value, int)):
        raise ConfigError(
            f"option {name!r} of the fake trainer is {value!r}; it must be a number", code="E1102"
        )
    return float(value or 0)
