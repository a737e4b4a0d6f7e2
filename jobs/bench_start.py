"""Seconds from `orc train` to its first epoch, against ultralytics alone, and where they go."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.yolo_link import DATA
from orchestrator.messages import GangStarted, ProgressReported, RunSubmitted
from orchestrator.store.sql import SqlStore

SETTINGS = {"epochs": 1, "imgsz": 64, "batch": 8, "optimizer": "AdamW", "workers": 0, "seed": 0}

NATIVE = """
import json, sys, time
from ultralytics import YOLO
given = json.loads(sys.argv[1])
model = YOLO(given.pop("model"))
def first(trainer):
    print("STARTED", time.time(), flush=True)
    trainer.stop = True
model.add_callback("on_train_epoch_start", first)
model.train(**given)
"""


def native(folder: Path) -> float:
    """Seconds to the start of the first epoch of `YOLO.train` in a fresh process."""
    given = {
        **SETTINGS,
        "model": str(DATA / "weights" / "yolov8n.pt"),
        "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
        "device": "cpu",
        "project": str(folder),
        "plots": False,
        "verbose": False,
    }
    environment = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    begun = time.time()
    command = [sys.executable, "-c", NATIVE, json.dumps(given)]
    done = subprocess.run(  # noqa: S603 - our own interpreter and text
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    stamp = next(row for row in done.stdout.splitlines() if row.startswith("STARTED"))
    return float(stamp.split()[1]) - begun


def ours(folder: Path) -> dict[str, float]:
    """Seconds from the command to: the run submitted, its worker up, its first epoch begun."""
    words = [f"{key}={value}" for key, value in SETTINGS.items()]
    words += [f"model={DATA / 'weights' / 'yolov8n.pt'}", "device=cpu"]
    words += [f"data={DATA / 'det_bccd_tiny' / 'data.yaml'}"]
    command = [sys.executable, "-m", "orchestrator", "train", *words, "--home", str(folder)]
    begun = time.time()
    subprocess.run(  # noqa: S603 - our own command
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    ended = time.time()
    stamps: dict[str, float] = {}
    for event in SqlStore(f"sqlite:///{folder / 'orchestrator.db'}").replay():
        match event:
            case RunSubmitted():
                stamps["submitted"] = event.at - begun
            case GangStarted():
                stamps["worker up"] = event.at - begun
            case ProgressReported(progress=progress):
                stamps["first epoch"] = event.at - progress.seconds - begun
                stamps["epoch recorded"] = event.at - begun
            case _:
                continue
    stamps["command ended"] = ended - begun
    return stamps


def main() -> int:
    """Print both, in turn, for 3 pairs, and the ratio of the medians."""
    rows: list[dict[str, float]] = []
    alone: list[float] = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as scratch:
            alone.append(native(Path(scratch)))
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(ours(Path(scratch)))
        print(f"ultralytics {alone[-1]:6.1f} s   orc {rows[-1]['first epoch']:6.1f} s")
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print("orc, medians: " + ", ".join(f"{key} {value:.1f} s" for key, value in medians.items()))
    ratio = medians["first epoch"] / statistics.median(alone)
    print(f"first epoch begins: orc / ultralytics = {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
