"""Images per second of TimmTrainer against those of a plain timm loop, in turn, in pairs."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.pairs import GOAL, compared, stamp
from jobs.plain_timm import native
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
