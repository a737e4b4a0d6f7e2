"""Bench: images/s of TimmTrainer against a plain timm loop, in turn; prints the median ratio."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from jobs.yolo_link import DATA, QuietLink, task_of
from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import CheckpointRef, Progress


@dataclass
class TimedLink(QuietLink):
    """Remembers when each epoch was reported."""

    clock: Callable[[], float] = time.perf_counter
    times: list[float] = field(default_factory=list)

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Keep the moment."""
        self.times.append(self.clock())


def ours(args: argparse.Namespace, folder: Path) -> list[float]:
    """Moments at which TimmTrainer had finished an epoch."""
    size = {key: getattr(args, key) for key in ("epochs", "imgsz", "batch")}
    task = task_of(folder, args.data, f"timm/{args.model}", **size)
    settings = replace(task.spec.settings, workers=args.workers, amp="fp32")
    link = TimedLink(folder, clock=args.clock)
    TimmTrainer().fit(replace(task, spec=replace(task.spec, settings=settings)), CpuDevice(), link)
    return link.times


def plain(args: argparse.Namespace, folder: Path) -> list[float]:
    """The same training as one writes it by hand: same data, model, batch, EMA, checkpoint."""
    data = {k: ImageFolder(args.data / k) for k in ("train", "val")}
    model = timm.create_model(args.model, num_classes=len(data["train"].classes))
    look = resolve_model_data_config(model) | {"input_size": (3, args.imgsz, args.imgsz)}
    data["train"].transform = create_transform(**look, is_training=True, scale=(0.5, 1.0))
    data["val"].transform = create_transform(**look)
    load = partial(DataLoader, num_workers=args.workers, persistent_workers=args.workers > 0)
    train = load(data["train"], args.batch, shuffle=True, drop_last=True)
    val = load(data["val"], 2 * args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(train))
    ema, times = ModelEmaV3(model, decay=0.9998, use_warmup=True), []
    for _ in range(args.epochs):
        model.train()
        for images, labels in train:
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(images), labels))
            optimizer.step()
            ema.update(model)
            schedule.step()
        with torch.no_grad():
            sum(int((ema.module(images).argmax(1) == labels).sum()) for images, labels in val)
        states = [part.state_dict() for part in (model, ema, optimizer, schedule)]
        torch.save(states, folder / "last.pt")
        times.append(args.clock())
    return times


def main() -> None:
    """Run pairs in turn, but for each first epoch; CPU seconds count if there are no workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "cls_trashnet6")
    parser.add_argument("--model", default="mobilenetv3_small_050")
    for name, value in {"imgsz": 160, "batch": 32, "epochs": 3, "workers": 2, "pairs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.clock = time.perf_counter if args.workers else time.process_time
    ratios = []
    for pair in range(args.pairs):
        seconds = {}
        for run in (ours, plain) if pair % 2 else (plain, ours):
            with tempfile.TemporaryDirectory() as folder:
                times = run(args, Path(folder))
            seconds[run] = (times[-1] - times[0]) / (args.epochs - 1)
        ratios.append(seconds[plain] / seconds[ours])
        print(f"epoch: ours {seconds[ours]:.2f} s, plain {seconds[plain]:.2f} s: {ratios[-1]:.3f}")
    print(f"median ratio of images/s: {statistics.median(ratios):.3f} (goal: at least 0.97)")


if __name__ == "__main__":
    main()
