"""Images per second of YoloTrainer against those of ultralytics alone, in turn, in pairs."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs.pairs import GOAL, compared
from jobs.yolo_link import DATA, QuietLink, Stamp, now, task_of, without_scans
from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_settings import overrides
from orchestrator.types import TrainTask


def native(given: argparse.Namespace, folder: Path) -> list[Stamp]:
    """When each epoch of `YOLO.train` ended: trained, validated, last.pt and best.pt written."""
    stamps: list[Stamp] = []
    with apart(str(folder)):
        from ultralytics import YOLO

        data, task = str(given.data), _task(given, folder)
        told = overrides(task, torch_device="cpu", data=data, model=given.model)
        model: Any = YOLO(told.pop("model"))
        model.add_callback("on_fit_epoch_end", lambda _: stamps.append(now()))
        model.train(**told)
    return stamps[: given.epochs]  # then comes the validation of the finished weights


def ours(given: argparse.Namespace, folder: Path) -> list[Stamp]:
    """When each epoch of YoloTrainer ended: trained, validated, a verified checkpoint written."""
    link = QuietLink(folder)
    YoloTrainer().fit(_task(given, folder), CpuDevice(), link)
    return link.stamps


def _task(given: argparse.Namespace, folder: Path) -> TrainTask:
    sizes = {name: getattr(given, name) for name in ("epochs", "imgsz", "batch")}
    return task_of(folder, given.data, given.model, **sizes)


def main() -> int:
    """Print the speeds and their ratios; 1 when the median is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "det_bccd" / "data.yaml")
    parser.add_argument("--model", default=str(DATA / "weights" / "yolov8n.pt"))
    for name, default in (("epochs", 4), ("imgsz", 160), ("batch", 16), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--who", choices=("native", "ours"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.who is not None:
        print(json.dumps({"native": native, "ours": ours}[given.who](given, given.folder)))
        return 0
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        given.data = without_scans(given.data, root / "data")
        images = sum(1 for _ in (root / "data/images/train").iterdir())
        ratio = compared("jobs.bench_overhead_yolo", given, root, images=images)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
