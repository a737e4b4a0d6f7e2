"""Images per second of YoloTrainer against those of ultralytics alone, in turn, in pairs."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def measured(given: argparse.Namespace, who: str, folder: Path) -> Stamp:
    """Seconds an epoch on both clocks, in a process of its own; the first epoch is left out."""
    words = [f"--{k}={v}" for k, v in vars(given).items() if k not in ("who", "folder")]
    command = [sys.executable, "-m", __spec__.name, *words, f"--who={who}", f"--folder={folder}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)  # noqa: S603 - our own module
    shutil.rmtree(folder)
    first, *_, last = json.loads(done.stdout.splitlines()[-1])
    count = given.epochs - 1
    return (last[0] - first[0]) / count, (last[1] - first[1]) / count


def main() -> int:
    """Print both speeds of every pair and the median ratio; 1 when it is below 0.97."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "det_bccd" / "data.yaml")
    parser.add_argument("--model", default=str(DATA / "weights" / "yolov8n.pt"))
    for name, default in (("epochs", 3), ("imgsz", 160), ("batch", 16), ("pairs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--who", choices=("native", "ours"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.who is not None:
        print(json.dumps({"native": native, "ours": ours}[given.who](given, given.folder)))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    ratios: list[Stamp] = []
    try:
        given.data = without_scans(given.data, root / "data")
        images = sum(1 for _ in (root / "data/images/train").iterdir())
        for pair in range(1, given.pairs + 1):
            order = ("native", "ours") if pair % 2 else ("ours", "native")
            took = {who: measured(given, who, root / f"{who}{pair}") for who in order}
            wall, cpu = (a / b for a, b in zip(took["native"], took["ours"], strict=True))
            ratios.append((wall, cpu))
            speeds = "  ".join(f"{who} {images / took[who][0]:.2f} images/s" for who in order)
            print(f"pair {pair}: {speeds}  ratio {wall:.3f}, of CPU time {cpu:.3f}", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio over {given.pairs} pairs: {wall:.3f}, of CPU time {cpu:.3f}")
    return int(wall < 0.97)


if __name__ == "__main__":
    sys.exit(main())
