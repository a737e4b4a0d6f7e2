"""Seconds of a first prediction, of the largest batch for a card, and of a plan from the cache."""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from orchestrator.device.catalogue import catalogue
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.labels import count_labels
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import largest, micro_batches
from orchestrator.plan.overheads import overheads
from orchestrator.plan.workload import Labels, Workload
from orchestrator.trainer.yolo_data import YoloData

__all__ = ["main"]

CLASSIFIER = Workload(trainer="timm", model="efficientnet_b0", imgsz=224, num_classes=1000)
DETECTOR = Workload(
    trainer="yolo",
    model="yolo11l.yaml",
    imgsz=640,
    num_classes=80,
    task="detect",
    is_channels_last=True,
    labels=Labels(most=60, mean=15),
)
GOALS = {"efficientnet_b0": 8, "yolo11l.yaml": 12}
NUM_LABELS = 5000


def main() -> int:
    """Measure in fresh processes and print, with the load of the machine."""
    if sys.argv[1:2] == ["--first"]:
        return _first(sys.argv[2], Path(sys.argv[3]))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        for workload in (CLASSIFIER, DETECTOR):
            _fresh(workload, Path(folder))
        for workload in (CLASSIFIER, DETECTOR):
            _again(workload, Path(folder))
        _labels(Path(folder))
    return 0


def _first(model: str, folder: Path) -> int:
    """In a fresh process: trace, keep, and the largest batch on an RTX 4080 SUPER."""
    workload = next(w for w in (CLASSIFIER, DETECTOR) if w.model == model)
    stamps = {"start": time.monotonic()}
    from orchestrator.memory.slim import make_slim

    make_slim()  # as in the process that traces
    from orchestrator.memory.trace import trace_pair

    stamps["import"] = time.monotonic()
    pair = trace_pair(workload)
    stamps["trace"] = time.monotonic()
    kept = CachedPredictor(TraceCache(folder), lambda _: LinearTrace.of(*pair))
    largest(kept.trace(workload), overheads("Ada").capacity(16 << 30))
    stamps["largest"] = time.monotonic()
    processor = time.process_time()
    kept.footprints([(workload, micro_batches(64))])
    stamps["footprint"] = time.monotonic()
    steps = {after: stamps[after] - stamps[before] for before, after in pairwise(stamps)}
    print(json.dumps(steps | {"processor": processor}))
    return 0


def _fresh(workload: Workload, folder: Path) -> None:
    """Time `_first` from outside, which counts the start of Python too."""
    command = [sys.executable, "-m", "jobs.bench_memory_cost", "--first", workload.model]
    begun = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own interpreter and text
        [*command, str(folder)], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - begun
    steps = json.loads(done.stdout.splitlines()[-1])
    processor = steps.pop("processor")
    inside = ", ".join(f"{name} {value:.1f}" for name, value in steps.items())
    wanted = seconds - steps["footprint"]  # what one card is answered with
    print(
        f"first prediction of {workload.model}: {wanted:.1f} s, {processor:.1f} s of a processor"
        f" (goal {GOALS[workload.model]}); {inside}"
    )


def _again(workload: Workload, folder: Path) -> None:
    """Time the largest batch from a trace, and a plan for every card from the cache."""
    trace = CachedPredictor(TraceCache(folder), _no_tracer).trace(workload)
    _ = trace.events
    slowest = (0.0, 0.0, "")
    for card in catalogue():
        begun, busy = time.monotonic(), time.process_time()
        largest(trace, overheads(card.architecture).capacity(card.memory_bytes))
        took = (time.process_time() - busy, time.monotonic() - begun, card.name)
        slowest = max(slowest, took)
    print(
        f"largest for one card, {workload.model}: at worst {slowest[1]:.3f} s, {slowest[0]:.3f} s"
        f" of a processor ({slowest[2]}); goal 0.3"
    )
    begun = time.monotonic()
    kept = CachedPredictor(TraceCache(folder), _no_tracer)
    (known,) = kept.footprints([(workload, (1,))])
    for card in catalogue():
        known.largest(overheads(card.architecture).capacity(card.memory_bytes))
    seconds = time.monotonic() - begun
    print(
        f"cached, all {len(catalogue())} cards, {workload.model}: {seconds * 1000:.0f} ms; goal 100"
    )


def _labels(folder: Path) -> None:
    """Time the reading of many label files."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    rows = "".join(f"0 0.5 0.5 0.1 0.{number:02d}\n" for number in range(1, 21))
    for number in range(NUM_LABELS):
        (folder / "images" / "train" / f"{number}.jpg").touch()
        (folder / "labels" / "train" / f"{number}.txt").write_text(rows)
    data = YoloData(
        source=folder / "data.yaml",
        root=folder,
        splits={"train": (folder / "images" / "train",)},
        names=("thing",),
    )
    begun = time.monotonic()
    found = count_labels(data).training(16)
    print(f"{NUM_LABELS} label files of 20 boxes: {time.monotonic() - begun:.1f} s, {found}")


def _no_tracer(workload: Workload) -> LinearTrace:
    raise AssertionError(f"{workload} was not kept")


if __name__ == "__main__":
    sys.exit(main())
