"""The same training by ultralytics itself and by YoloTrainer, epoch by epoch."""

import argparse
import csv
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs.yolo_link import DATA, QuietLink, task_of, without_scans
from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_settings import overrides


def native(folder: Path, data: Path, model: str, **settings: Any) -> list[dict[str, float]]:
    """Train with `YOLO.train`, told the same; its results.csv by epoch."""
    task = task_of(folder, data, model, **settings)
    with apart(str(folder)):
        from ultralytics import YOLO

        given = overrides(task, torch_device="cpu", data=str(data), model=model)
        YOLO(given.pop("model")).train(**given)
    return rows(Path(task.folder) / "results.csv")


def ours(folder: Path, data: Path, model: str, **settings: Any) -> list[dict[str, float]]:
    """Train with YoloTrainer; the results.csv of the run folder by epoch."""
    task = task_of(folder, data, model, **settings)
    YoloTrainer().fit(task, CpuDevice(), QuietLink(folder))
    return rows(folder / "results.csv")


def rows(file: Path) -> list[dict[str, float]]:
    """The numbers of a results.csv, its clock left out."""
    with file.open(encoding="utf-8") as lines:
        found = [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
    return [{k: v for k, v in row.items() if k != "time"} for row in found]


def difference(left: list[dict[str, float]], right: list[dict[str, float]]) -> float:
    """The largest absolute difference; infinite where epochs or columns differ."""
    if [sorted(row) for row in left] != [sorted(row) for row in right]:
        return float("inf")
    return max(abs(a[k] - b[k]) for a, b in zip(left, right, strict=True) for k in a)


def main() -> int:
    """Print both, and the largest difference; 1 when it is above 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "det_bccd_tiny" / "data.yaml")
    parser.add_argument("--model", default=str(DATA / "weights" / "yolov8n.pt"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--close-mosaic", type=int, default=1)
    given = parser.parse_args()
    options = {"close_mosaic": given.close_mosaic}
    sizes = {"epochs": given.epochs, "imgsz": given.imgsz, "batch": given.batch}
    settings = {**sizes, "options": options}
    root = Path(tempfile.mkdtemp(prefix="parity-"))
    try:
        data = without_scans(given.data, root / "data")
        theirs = native(root / "native", data, given.model, **settings)
        mine = ours(root / "ours", data, given.model, **settings)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for epoch, (left, right) in enumerate(zip(theirs, mine, strict=True), 1):
        for name in left:
            if not name.startswith("lr/"):
                print(f"epoch {epoch}  {name:24} {left[name]:12.6g} {right.get(name, 0):12.6g}")
    worst = difference(theirs, mine)
    print(f"largest difference over {len(mine)} epochs and {len(mine[0])} columns: {worst:.3g}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
