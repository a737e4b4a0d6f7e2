"""The RunLink of a worker: what a trainer says goes to the inbox, what it asks is a flag here."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import ray

from orchestrator.cluster.inbox import Report
from orchestrator.cluster.pacing import PaceMeter
from orchestrator.errors import TrainingError
from orchestrator.messages import Recut
from orchestrator.ports import Checkpoints, Device, StoredRun
from orchestrator.types import (
    AttemptId,
    Cause,
    CheckpointRef,
    Progress,
    Seconds,
    StepProgress,
    StopMode,
)

__all__ = ["STORE_SECONDS", "RayLink", "Signs", "StopFlag"]

STORE_SECONDS: Seconds = 600.0
"""A client of a store may wait for ever for an answer: what takes longer than this hangs."""

_STEP_INTERVAL: Seconds = 0.5  # signs of life are for people; more than two a second help nobody


class StopFlag:
    """Whether, and how soon, the attempt was asked to leave. Set by one thread, read by another."""

    def __init__(self) -> None:
        self.mode: StopMode | None = None

    def ask(self, mode: StopMode) -> None:
        """Ask to leave; a request to leave sooner is never softened."""
        if self.mode is None or mode.urgency >= self.mode.urgency:
            self.mode = mode


class Signs:
    """When the trainer last came by. Written by one thread, read by another."""

    def __init__(self) -> None:
        self._at: Seconds = time.monotonic()
        self._patience: Seconds = 0.0

    def give(self) -> None:
        """The trainer is alive."""
        self._at = time.monotonic()

    @contextmanager
    def waiting(self, patience: Seconds = math.inf) -> Iterator[None]:
        """While inside, it waits for others: silence is not the trainer's, for so many seconds."""
        self.give()
        self._patience = patience
        try:
            yield
        finally:
            self.give()
            self._patience = 0.0

    @property
    def quiet_seconds(self) -> Seconds:
        """Seconds since then, beyond what it may wait."""
        return max(0.0, time.monotonic() - self._at - self._patience)


class RayLink:
    """Implements RunLink for one attempt in its worker.

    Args:
        attempt: Named in everything that is said.
        inbox: Handle of the `Inbox` actor; None for a rank that tells nothing, as all but rank 0.
        checkpoints: The run's checkpoints.
        device: Asked for the peak where the trainer leaves it 0.
        stop: Set by the worker when the gang is asked to leave.
        signs: Told of every call.
        resume_from: The newest checkpoint that could be verified, as a file of this node.
        stored: The part here of a run that is kept at an address; None for one in a folder.
        images_of_step: The effective batch.
        until: The epoch after which the run ends, of all its epochs; None trains all.
    """

    def __init__(  # noqa: PLR0913 - all of them named
        self,
        *,
        attempt: AttemptId,
        inbox: Any,
        checkpoints: Checkpoints,
        device: Device,
        stop: StopFlag,
        signs: Signs,
        resume_from: CheckpointRef | None,
        images_of_step: int,
        stored: StoredRun | None = None,
        until: int | None = None,
    ) -> None:
        self._attempt = attempt
        self._inbox = inbox
        self._checkpoints = checkpoints
        self._device = device
        self._stop = stop
        self._signs = signs
        self._resume_from = resume_from
        self._pace = PaceMeter(images_of_step)
        self._stored = stored
        self._away: dict[str, CheckpointRef] = {}  # by the path here, what is to be recorded
        self._until = until
        self._is_complete = bool(until and resume_from and resume_from.epoch >= until)
        self._last_step: Seconds = -_STEP_INTERVAL
        self._last_number = 0  # of the newest report, as the inbox counts

    @property
    def resume_from(self) -> CheckpointRef | None:
        """The newest verified checkpoint of the run, or None for a fresh start."""
        return self._resume_from

    def is_complete(self) -> bool:
        """Whether the last epoch that the run is to train has been reported."""
        return self._is_complete

    def stop_requested(self) -> StopMode | None:
        """How soon to leave; None means go on."""
        self._signs.give()
        return self._stop.mode

    def step(self, step: StepProgress) -> None:
        """Push a sign of life, at most two a second, and once the pace, without waiting."""
        self._signs.give()
        now = time.monotonic()
        pace = self._pace.step(now, step)
        if self._inbox is not None and pace is not None:
            self._inbox.report.remote(Report(attempt=self._attempt, content=pace))
        if self._inbox is not None and now - self._last_step >= _STEP_INTERVAL:
            self._last_step = now
            self._inbox.step.remote(Report(attempt=self._attempt, content=step))

    def recut(self, recut: Recut) -> None:
        """Push a change of the micro-batch, without waiting."""
        self._signs.give()
        if self._inbox is not None:
            self._inbox.report.remote(Report(attempt=self._attempt, content=recut))

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """Write a verified checkpoint after `epoch` completed epochs, and `step` of the next.

        Waits until the epoch before is recorded: a worker that runs ahead of the journal would
        replace the checkpoint that the journal names, and a restart would find none of those it
        knows. For the same reason one whose epoch was refused writes no more.

        Raises:
            TrainingError: E4012, the attempt is over.
        """
        assert self._inbox is not None, "rank 0 alone saves"
        with self._signs.waiting():
            if not ray.get(self._inbox.recorded.remote(self._last_number)):
                raise TrainingError(
                    f"attempt {self._attempt} is over: what it reported was not recorded",
                    cause=Cause.WORKER_LOST,
                    code="E4012",
                    why=("it was taken for lost while it stood still, and another goes on",),
                )
        write_it = partial(
            self._checkpoints.write,
            self._attempt, epoch, write, is_best=is_best, check=check, step=step,
        )  # fmt: skip
        if self._stored is None:
            return write_it()
        with self._signs.waiting(STORE_SECONDS):  # for a store that is far away, or just away
            away = write_it()
        if step:
            return away  # it is not recorded: where it lies here is all that counts
        here = self._stored.here(away)
        self._away = {here.path: away}
        return here

    def unfinished(self) -> CheckpointRef | None:
        """What was kept of the epoch after `resume_from`, as a file of this node."""
        epoch = self._resume_from.epoch if self._resume_from else 0
        with self._signs.waiting(STORE_SECONDS):
            return self._checkpoints.unfinished(self._attempt, epoch)

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Push a completed epoch, and return when the inbox has it."""
        assert self._inbox is not None, "rank 0 alone reports"
        self._signs.give()
        if not progress.peak_bytes:
            progress = replace(
                progress,
                peak_bytes=self._device.peak_bytes(),
                peak_reserved_bytes=self._device.peak_reserved_bytes(),
            )
        if checkpoint is not None and self._stored is not None:
            checkpoint = self._away[checkpoint.path]
        sent = Report(attempt=self._attempt, content=progress, checkpoint=checkpoint)
        with self._signs.waiting():
            self._last_number = ray.get(self._inbox.report.remote(sent))
        if self._stored is not None:
            with self._signs.waiting(STORE_SECONDS):
                self._stored.put_texts()
        if self._until is not None and progress.epoch >= self._until:
            self._is_complete = True
            self._stop.ask(StopMode.AFTER_EPOCH)
