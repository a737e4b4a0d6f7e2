"""What a client shows of a run: frozen records, shared with `--json`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.types import (
    CheckpointRef,
    Metrics,
    Part,
    Progress,
    RunSpec,
    RunState,
    RunStatus,
    Seconds,
)

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["Run", "RunRecord", "asked_run", "run_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as people see it. `metrics` are the last epoch's, `best` the best epoch's."""

    id: str
    project: str
    state: RunState
    attempts: int
    epoch: int
    epochs: int
    metrics: Metrics = field(default_factory=dict)
    best: Metrics = field(default_factory=dict)
    best_epoch: int | None = None
    gpu: str = ""
    reason: str | None = None
    cause: str | None = None
    detail: str = ""
    trainer: str = ""
    queue: str = "default"
    priority: int = 50
    submitted_at: Seconds = 0.0
    started_at: Seconds | None = None
    ended_at: Seconds | None = None
    peak_bytes: int = 0
    micro_batch: int | None = None
    effective_batch: int | None = None
    folder: str = ""
    part: Part | None = None

    @property
    def name(self) -> str:
        """The project, and which of its runs it is where it has several."""
        return f"{self.project} {self.part}" if self.part else self.project


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run with everything recorded about it."""

    run: Run
    spec: RunSpec
    progress: tuple[Progress, ...]
    checkpoints: tuple[CheckpointRef, ...]


def asked_run(spec: RunSpec) -> Run:
    """A submission that no driver has taken yet."""
    return Run(
        id=spec.run_id,
        project=spec.project,
        state=RunState.PENDING,
        attempts=0,
        epoch=0,
        epochs=spec.settings.epochs,
        reason="NOT_EVALUATED",
        detail="no driver has taken it yet; orc resume starts one",
        trainer=spec.trainer,
        queue=spec.queue,
        priority=spec.priority,
        effective_batch=spec.effective_batch,
        folder=spec.folder,
        part=spec.part,
    )


def run_of(store: "SqlStore", status: RunStatus) -> Run:
    """A run as its published row and its epochs say."""
    progress = store.progress(status.run_id)
    best_epoch, best = _best(store, status, progress)
    return Run(
        id=status.run_id,
        project=status.project,
        state=status.state,
        attempts=status.attempt,
        epoch=status.epoch,
        epochs=status.epochs,
        metrics=dict(progress[-1].metrics) if progress else {},
        best=best,
        best_epoch=best_epoch,
        gpu=status.gpu,
        reason=status.reason.value if status.reason else None,
        cause=status.cause.value if status.cause else None,
        detail=status.detail,
        trainer=status.trainer,
        queue=status.queue,
        priority=status.priority,
        submitted_at=status.submitted_at,
        started_at=status.started_at,
        ended_at=status.ended_at,
        peak_bytes=max((row.peak_bytes for row in progress), default=0),
        micro_batch=status.batch.micro_batch if status.batch else None,
        effective_batch=status.batch.effective_batch if status.batch else None,
        folder=status.folder,
        part=status.part,
    )


def _best(
    store: "SqlStore", status: RunStatus, progress: Sequence[Progress]
) -> tuple[int | None, Metrics]:
    """The epoch whose checkpoint was the best, and its metrics."""
    epoch = max((r.epoch for r in store.checkpoints(status.run_id) if r.is_best), default=None)
    rows = {row.epoch: dict(row.metrics) for row in progress}
    return epoch, rows.get(epoch, {}) if epoch is not None else {}
