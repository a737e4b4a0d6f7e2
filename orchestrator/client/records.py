"""What a client shows of a run: frozen records, shared with `--json`."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrator.messages import Event, ResumeRequested
from orchestrator.types import CheckpointRef, Metrics, Part, Progress, RunSpec, RunState, Seconds

if TYPE_CHECKING:
    from orchestrator.store.lists import Listed

__all__ = ["Run", "RunRecord", "asked_run", "known_run", "listed_run", "made_at_once"]

_STATES = {state.value: state for state in RunState}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as people see it. `metrics` are the last epoch's, `best` the best epoch's.

    Where it has an `address`, nodes keep there what they write; `folder` has the driver's files.

    Among unfinished runs of one priority the smaller `order` goes first; None is the last.
    """

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
    order: int | None = None
    submitted_at: Seconds = 0.0
    started_at: Seconds | None = None
    ended_at: Seconds | None = None
    peak_bytes: int = 0
    micro_batch: int | None = None
    effective_batch: int | None = None
    folder: str = ""
    address: str = ""
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


@contextmanager
def made_at_once() -> Iterator[None]:
    """Put off the search for rubbish while thousands of values are made: it takes half the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def asked_run(spec: Mapping[str, Any]) -> Run:
    """A submission that no driver has taken yet, from its plain spec."""
    return Run(
        id=spec["run_id"],
        project=spec["project"],
        state=RunState.PENDING,
        attempts=0,
        epoch=0,
        epochs=spec["settings"]["epochs"],
        reason="NOT_EVALUATED",
        detail="no driver has taken it yet; orc serve or orc resume starts one",
        trainer=spec["trainer"],
        queue=spec.get("queue", "default"),
        priority=spec.get("priority", 50),
        effective_batch=spec["effective_batch"],
        folder=spec["folder"],
        part=_part(spec),
    )


def known_run(row: "Listed", wish: Event | None) -> Run:
    """A listed run; PENDING where it had ended and was asked to go on.

    Args:
        row: What a driver published last.
        wish: What was asked last about its end, if no driver has taken that yet.
    """
    run = listed_run(row)
    if not run.state.is_terminal or not isinstance(wish, ResumeRequested):
        return run
    return replace(
        run,
        state=RunState.PENDING,
        reason="NOT_EVALUATED",
        detail="it was asked to go on; no driver has taken that up yet",
        cause=None,
        ended_at=None,
    )


def listed_run(row: "Listed") -> Run:
    """A run as its published row and its epochs in short say."""
    status = row.status
    batch = status.get("batch") or {}
    return Run(
        id=status["run_id"],
        project=status["project"],
        state=_STATES[status["state"]],
        attempts=status["attempt"],
        epoch=row.epoch,
        epochs=status["epochs"],
        metrics=_numbers(row.metrics),
        best=_numbers(row.best),
        best_epoch=row.best_epoch,
        gpu=status.get("gpu", ""),
        reason=status.get("reason"),
        cause=status.get("cause"),
        detail=status.get("detail", ""),
        trainer=status["trainer"],
        queue=status["queue"],
        priority=status["priority"],
        order=status.get("order"),
        submitted_at=status["submitted_at"],
        started_at=status.get("started_at"),
        ended_at=status.get("ended_at"),
        peak_bytes=row.peak_bytes,
        micro_batch=batch.get("micro_batch"),
        effective_batch=batch.get("effective_batch"),
        folder=status.get("folder", ""),
        address=status.get("address", ""),
        part=_part(status),
    )


def _part(plain: Mapping[str, Any]) -> Part | None:
    part = plain.get("part")
    return None if part is None else Part(**part)


def _numbers(plain: Mapping[str, Any]) -> dict[str, float]:
    """Metrics from their plain form, where NaN is `{"$float": "nan"}`."""
    if not plain:
        return {}
    return {
        name: float(value["$float"]) if isinstance(value, dict) else value
        for name, value in plain.items()
    }
