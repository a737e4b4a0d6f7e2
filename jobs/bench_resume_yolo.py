"""A YOLO run killed with SIGKILL and resumed, against one that was left alone."""

import argparse
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from jobs.bench_parity_yolo import difference, rows
from jobs.yolo_link import DATA, QuietLink, task_of, without_scans
from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import CheckpointRef, Progress, StepProgress


class Fatal(QuietLink):
    """Keeps the name of the newest checkpoint; dies a step into the epoch after `last_epoch`."""

    last_epoch = 0

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Leave word of the checkpoint for the next attempt."""
        (self.folder / "newest").write_bytes(pickle.dumps(checkpoint))

    def step(self, step: StepProgress) -> None:
        """Die without a word, as from the kernel's out-of-memory killer."""
        if self.last_epoch and step.epoch > self.last_epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(given: argparse.Namespace, folder: Path, last_epoch: int) -> None:
    """One attempt, in this process."""
    sizes = {"epochs": given.epochs, "imgsz": given.imgsz, "batch": given.batch}
    rest = {"optimizer": given.optimizer, "options": {"close_mosaic": given.close_mosaic}}
    task = task_of(folder, given.data, given.model, **sizes, **rest)
    link = Fatal(folder)
    link.last_epoch = last_epoch
    newest = folder / "newest"
    if newest.exists():
        link.resume_from = pickle.loads(newest.read_bytes())  # noqa: S301 - our own, from this run
        link.attempt = replace(link.attempt, number=2)
    YoloTrainer().fit(task, CpuDevice(), link)


def attempt(given: argparse.Namespace, folder: Path, last_epoch: int) -> int:
    """One attempt, in a process of its own; its exit status."""
    words = [f"--{k.replace('_', '-')}={v}" for k, v in vars(given).items() if k != "folder"]
    command = [sys.executable, "-m", "jobs.bench_resume_yolo", *words, f"--folder={folder}"]
    environment = os.environ | {"ORC_KILL_AFTER": str(last_epoch)}
    return subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode  # noqa: S603 - our own module


def main() -> int:
    """Print the largest difference between the two; 1 when it is above 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "det_bccd_tiny" / "data.yaml")
    parser.add_argument("--model", default=str(DATA / "weights" / "yolov8n.pt"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--close-mosaic", type=int, default=1)
    parser.add_argument("--optimizer", default="AdamW")
    parser.add_argument("--killed-after", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.folder is not None:
        train(given, given.folder, int(os.environ["ORC_KILL_AFTER"]))
        return 0
    root = Path(tempfile.mkdtemp(prefix="resume-"))
    try:
        given.data = without_scans(given.data, root / "data")
        assert attempt(given, root / "whole", 0) == 0
        assert attempt(given, root / "killed", given.killed_after) == -signal.SIGKILL
        assert attempt(given, root / "killed", 0) == 0
        whole, resumed = rows(root / "whole/results.csv"), rows(root / "killed/results.csv")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    worst = difference(whole, resumed)
    for left, right in zip(whole, resumed, strict=True):
        name = "train/box_loss" if "train/box_loss" in left else "train/loss"
        print(f"epoch {left['epoch']:.0f}  {name} {left[name]:.5f} {right[name]:.5f}")
    print(f"killed after epoch {given.killed_after} of {given.epochs}, resumed: {worst:.3g}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
