"""Small work for the recovery bench: tiny models and pictures, and cards that fill up on cue."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.yolo_link import QuietLink
from orchestrator.messages import Recut
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    Card,
    CheckpointRef,
    DeviceKind,
    Progress,
    RunId,
    RunSpec,
    StepProgress,
    TrainSettings,
    TrainTask,
)

__all__ = ["CARD", "RUN", "WatchingLink", "class_folders", "detection_set", "task_of"]

RUN = AttemptId(run_id=RunId("recovery"), number=1)
CARD = Card(index=0, name="RTX 2060", memory_bytes=1 << 30, is_emulated=True)

_DETECTOR = """\
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, true]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[3, 4, 5], 1, Detect, [nc]]
"""


@dataclass
class WatchingLink(QuietLink):
    """Keeps what it is told, and calls `watch` at every step."""

    watch: Callable[[int, int], None] = lambda epoch, step: None
    reported: list[Progress] = field(default_factory=list)
    recuts: list[Recut] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)

    def step(self, step: StepProgress) -> None:
        """Note it, and let the bench act."""
        self.steps.append((step.epoch, step.step))
        self.watch(step.epoch, step.step)

    def recut(self, recut: Recut) -> None:
        """Keep it."""
        self.recuts.append(recut)

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Keep it."""
        self.reported.append(progress)


def task_of(
    folder: Path, settings: TrainSettings, batch: BatchPlan, *, trainer: str, rank: int = 0
) -> TrainTask:
    """An attempt in a folder of its own."""
    scratch = folder / f"attempt{rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    spec = RunSpec(
        run_id=RUN.run_id,
        project="recovery",
        trainer=trainer,
        settings=settings,
        effective_batch=batch.effective_batch,
        folder=str(folder),
        device=DeviceKind.CPU,
    )
    return TrainTask(attempt=RUN, spec=spec, batch=batch, folder=str(scratch), rank=rank)


def class_folders(folder: Path, *, train: int, val: int, size: int = 32) -> Path:
    """Two classes of stripes, upright and lying, on noise."""
    chance = np.random.default_rng(0)
    wave = 80 * np.sin(np.linspace(0, 6 * np.pi, size))
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            label = number % 2
            pixels = 128 + (wave[:, None] if label else wave[None, :])
            noisy = pixels[..., None] + chance.normal(0, 40, (size, size, 3))
            path = folder / part / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    return folder


def detection_set(folder: Path, *, train: int, val: int, size: int = 64) -> tuple[Path, Path]:
    """Bright and dark squares on noise; returns the data.yaml and a tiny architecture for it."""
    chance = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(0, 60, (size, size, 3)).astype(np.uint8)
            rows = []
            for _ in range(1 + number % 2):
                label, side = int(chance.integers(0, 2)), int(chance.integers(size // 4, size // 2))
                x, y = (int(v) for v in chance.integers(0, size - side, 2))
                pixels[y : y + side, x : x + side] = 120 + 110 * label
                box = ((x + side / 2) / size, (y + side / 2) / size, side / size, side / size)
                rows.append(" ".join([str(label), *(f"{value:.6f}" for value in box)]))
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
            (folder / "labels" / part / f"{number}.txt").write_text("\n".join(rows) + "\n")
    data, model = folder / "data.yaml", folder / "tiny.yaml"
    data.write_text("train: images/train\nval: images/val\nnames: [dark, bright]\n")
    model.write_text(_DETECTOR)
    return data, model
