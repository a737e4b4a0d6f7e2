"""Jobs of a what-if: what a trace says of a training, and the runs and submissions made of it.

A job has a duration on the cards that it asks for. As a run it has epochs of about
`EPOCH_SECONDS`, at least one and at most `MOST_EPOCHS`: what is lost when a gang is interrupted,
and what forecasts learn from, is an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.messages import RunSubmitted
from orchestrator.types import RunId, RunSpec, Seconds, TrainSettings

__all__ = ["EPOCH_SECONDS", "MOST_EPOCHS", "Job", "JobList", "num_epochs", "run_of", "submissions"]

EPOCH_SECONDS: Seconds = 600.0
MOST_EPOCHS = 100
SAMPLES_PER_GPU = 8  # of the batch; it divides among the cards of any gang
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training of a trace. Jobs of one `kind` are forecast by one another."""

    name: str
    submit_s: Seconds
    duration_s: Seconds  # on the GPUs that it asks for
    num_gpus: int = 1
    queue: str = "default"
    priority: int = 50
    memory_gib: float | None = None  # per GPU; None asks for whole cards
    kind: str = ""
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """The jobs of a trace in the order of submission, and what was told while it was read."""

    jobs: tuple[Job, ...]
    source: str  # what was read, in words
    num_broken: int = 0  # rows that were left out
    notes: tuple[str, ...] = ()

    def first(self, limit: int | None) -> "JobList":
        """The first jobs only; None keeps all."""
        if limit is None or limit >= len(self.jobs):
            return self
        note = f"the first {limit:,} of {len(self.jobs):,} jobs"
        return JobList(
            jobs=self.jobs[:limit],
            source=self.source,
            num_broken=self.num_broken,
            notes=(*self.notes, note),
        )


def num_epochs(duration_s: Seconds) -> int:
    """Epochs of a job of this duration."""
    return min(max(round(duration_s / EPOCH_SECONDS), 1), MOST_EPOCHS)


def run_of(job: Job) -> RunSpec:
    """The run of a job: it trains epochs of equal length, and does not fail by itself."""
    epochs = num_epochs(job.duration_s)
    return RunSpec(
        run_id=RunId(job.name),
        project=job.queue,
        trainer="fake",
        settings=TrainSettings(
            model=job.kind or "job",
            data="none",
            imgsz=1,
            epochs=epochs,
            patience=0,
            options={"epoch_seconds": job.duration_s / epochs},
        ),
        effective_batch=SAMPLES_PER_GPU * job.num_gpus,
        folder=f"/simulated/{job.name}",
        num_gpus=job.num_gpus,
        memory_bytes=None if job.memory_gib is None else int(job.memory_gib * GIB),
        gpu_types=() if job.gpu_type is None else (job.gpu_type,),
        queue=job.queue,
        priority=job.priority,
    )


def submissions(jobs: Sequence[Job]) -> tuple[RunSubmitted, ...]:
    """The jobs' runs, as they are submitted."""
    return tuple(RunSubmitted(at=job.submit_s, spec=run_of(job)) for job in jobs)
