"""What the YOLO benches share: a link that only writes files, a task, a copy of the data."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from orchestrator.types import (
    AttemptId,
    BatchPlan,
    CheckpointRef,
    DeviceKind,
    Progress,
    RunId,
    RunSpec,
    Scalar,
    StepProgress,
    StopMode,
    TrainSettings,
    TrainTask,
)

__all__ = ["DATA", "QuietLink", "task_of", "without_scans"]

DATA = Path(os.environ.get("ORC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass
class QuietLink:
    """Writes one checkpoint, in place of the one before, and keeps what was reported."""

    folder: Path
    resume_from: CheckpointRef | None = None
    reports: list[Progress] = field(default_factory=list)

    def stop_requested(self) -> StopMode | None:
        """Never."""
        return None

    def step(self, step: StepProgress) -> None:
        """Nothing."""

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Keep it."""
        self.reports.append(progress)

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
    ) -> CheckpointRef:
        """Write, flush to the disk, load back and hash, as the real ones do."""
        path = self.folder / "checkpoint"
        scratch = path.with_suffix(".tmp")
        with scratch.open("wb+") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            check(file)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        scratch.replace(path)
        attempt = AttemptId(run_id=RunId("bench"), number=1)
        return CheckpointRef(
            attempt=attempt,
            epoch=epoch,
            path=str(path),
            sha256=digest,
            num_bytes=path.stat().st_size,
            is_best=is_best,
        )


def task_of(
    folder: Path,
    data: Path,
    model: str,
    *,
    epochs: int,
    imgsz: int,
    batch: int,
    optimizer: str = "AdamW",
    **options: Scalar,
) -> TrainTask:
    """An attempt on one device whose step is not cut."""
    spec = RunSpec(
        run_id=RunId("bench"),
        project="bench",
        trainer="yolo",
        settings=TrainSettings(
            model=model,
            data=str(data),
            imgsz=imgsz,
            epochs=epochs,
            optimizer=optimizer,
            workers=0,
            options=options,
        ),
        effective_batch=batch,
        folder=str(folder),
        device=DeviceKind.CPU,
    )
    (folder / "attempt").mkdir(parents=True, exist_ok=True)
    return TrainTask(
        attempt=AttemptId(run_id=RunId("bench"), number=1),
        spec=spec,
        batch=BatchPlan(effective_batch=batch, world_size=1, micro_batch=batch),
        folder=str(folder / "attempt"),
    )


def without_scans(data: Path, target: Path) -> Path:
    """A copy of a data set, so that nothing is written beside the original."""
    shutil.copytree(data.parent, target, ignore=shutil.ignore_patterns("*.cache"))
    return target / data.name
