"""Images per second of TimmTrainer against those of a plain timm loop, in turn, in pairs."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from jobs.pairs import GOAL, compared, stamp
from jobs.yolo_link import DATA, QuietLink, Stamp, task_of
from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import CheckpointRef, Progress


@dataclass
class TimedLink(QuietLink):
    """Counts the seconds of the loading processes, too."""

    def report(self, progress: Progress, checkpoint: CheckpointRef | None) -> None:
        """Note the moment."""
        self.stamps.append(stamp())


def ours(given: argparse.Namespace, folder: Path) -> list[Stamp]:
    """When each epoch of TimmTrainer ended: trained, validated, a verified checkpoint written."""
    size = {key: getattr(given, key) for key in ("epochs", "imgsz", "batch")}
    task = task_of(folder, given.data, f"timm/{given.model}", **size)
    settings = replace(task.spec.settings, workers=given.workers, amp="fp32")
    link = TimedLink(folder)
    TimmTrainer().fit(replace(task, spec=replace(task.spec, settings=settings)), CpuDevice(), link)
    return link.stamps


def native(given: argparse.Namespace, folder: Path) -> list[Stamp]:
    """The same as one writes it by hand: data, augmentation, model, EMA, validation, last, best."""
    data = {k: ImageFolder(given.data / k) for k in ("train", "val")}
    model = timm.create_model(given.model, num_classes=len(data["train"].classes))
    look = resolve_model_data_config(model) | {"input_size": (3, given.imgsz, given.imgsz)}
    data["train"].transform = create_transform(**look, is_training=True, scale=(0.5, 1.0))
    data["val"].transform = create_transform(**look)
    load = partial(DataLoader, num_workers=given.workers, persistent_workers=given.workers > 0)
    train = load(data["train"], given.batch, shuffle=True, drop_last=True)
    val = load(data["val"], 2 * given.batch)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.epochs * len(train))
    ema, best = ModelEmaV3(model, decay=0.9998, use_warmup=True), -1
    stamps: list[Stamp] = []
    for epoch in range(given.epochs):
        model.train()
        for step, (images, labels) in enumerate(train, 1 + epoch * len(train)):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(images), labels))
            optimizer.step()
            ema.update(model, step)
            schedule.step()
        right = _right(ema.module, val)
        states = [part.state_dict() for part in (model, ema, optimizer, schedule)]
        torch.save(states, folder / "last.pt")
        if right > best:
            best = right
            torch.save(states, folder / "best.pt")
        stamps.append(stamp())
    return stamps


@torch.no_grad()
def _right(model: nn.Module, val: DataLoader[tuple[torch.Tensor, int]]) -> int:
    return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in val)


def main() -> int:
    """Print speeds and ratios for every image size; 1 when a median is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "cls_trashnet6")
    parser.add_argument("--model", default="mobilenetv3_small_050")
    for name, value in {"batch": 32, "epochs": 4, "workers": 2, "pairs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--imgsz", type=int, nargs="+", default=[64, 96, 160])
    parser.add_argument("--who", choices=("native", "ours"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    sizes = given.imgsz
    if given.who is not None:
        given.imgsz = sizes[0]
        print(json.dumps({"native": native, "ours": ours}[given.who](given, given.folder)))
        return 0
    images, ratios = sum(1 for _ in (given.data / "train").rglob("*.*")), []
    for given.imgsz in sizes:
        root = Path(tempfile.mkdtemp(prefix="overhead-"))
        print(f"{given.imgsz} px", flush=True)
        try:
            ratios.append(compared("jobs.bench_overhead_timm", given, root, images=images))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return int(min(ratios) < GOAL)


if __name__ == "__main__":
    sys.exit(main())
