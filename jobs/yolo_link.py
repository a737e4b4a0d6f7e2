"""What the YOLO benches share: a link that only writes files, a task, a copy of the data."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.messages import Recut
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    CheckpointRef,
    DeviceKind,
    Progress,
    RunId,
    RunSpec,
    StepProgress,
    StopMode,
    TrainSettings,
    TrainTask,
)

__all__ = ["BENCH", "DATA", "QuietLink", "Stamp", "now", "task_of", "without_scans"]

BENCH = AttemptId(run_id=RunId("bench"), number=1)
DATA = Path(os.environ.get("ORC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


Stamp = tuple[float, float]  # wall and processor seconds


def now() -> Stamp:
    """Both clocks; the second does not mind what else runs on the machine."""
    return time.monotonic(), time.process_time()


@dataclass
class QuietLink:
    """Writes verified checkpoints, notes when epochs were reported, and drops the rest."""

    folder: Path
    resume_from: CheckpointRef | None = None
    stamps: list[Stamp] = field(default_factory=list)
    attempt: AttemptId = BENCH

    def stop_requested(self) -> StopMode | None:
        """Never."""
        return None

    def step(self, step: StepProgress) -> None:
        """Nothing."""

    def recut(self, recut: Recut) -> None:
        """Nothing."""

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Note the moment."""
        self.stamps.append(now())

    def save(
        self,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """Write it as a worker does."""
        return FileCheckpoints(str(self.folder)).write(
            self.attempt, epoch, write, is_best=is_best, check=check, step=step
        )

    def unfinished(self) -> CheckpointRef | None:
        """What was kept of the epoch after the one to go on from."""
        epoch = self.resume_from.epoch if self.resume_from else 0
        return FileCheckpoints(str(self.folder)).unfinished(self.attempt, epoch)


def task_of(
    folder: Path, data: Path, model: str, *, epochs: int, imgsz: int, batch: int, **rest: Any
) -> TrainTask:
    """An attempt on one device whose step is not cut; `rest` are fields of TrainSettings."""
    spec = RunSpec(
        run_id=BENCH.run_id,
        project="bench",
        trainer="yolo",
        settings=TrainSettings(
            model=model, data=str(data), imgsz=imgsz, epochs=epochs, workers=0, **rest
        ),
        effective_batch=batch,
        folder=str(folder),
        device=DeviceKind.CPU,
    )
    (folder / "attempt").mkdir(parents=True, exist_ok=True)
    return TrainTask(
        attempt=BENCH,
        spec=spec,
        batch=BatchPlan(effective_batch=batch, world_size=1, micro_batch=batch),
        folder=str(folder / "attempt"),
    )


def without_scans(data: Path, target: Path) -> Path:
    """A copy of a data set, so that nothing is written beside the original."""
    shutil.copytree(data.parent, target, ignore=shutil.ignore_patterns("*.cache"))
    return target / data.name
