"""The runs of a drill on two nodes: stub runs whose training is a formula, or real small ones."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.yolo_link import DATA
from orchestrator.config.load import load_config
from orchestrator.types import RetryBudget, RunId, RunSpec, Seconds, TrainSettings

__all__ = ["real_specs", "stub_specs"]

# Of an attempt that is killed again and again nobody can say that it gets on.
_PATIENT = RetryBudget(hangs=1000, node_losses=1000, kills=1000, losses_without_progress=1000)


def stub_specs(home: Path, number: int, epochs: int, seconds: Seconds) -> list[RunSpec]:
    """Three runs of a whole card, of which one crashes once, and one of a share."""
    specs = []
    for each in range(4):
        run_id = RunId(f"20260101-{number:06d}-stub-run-{each:04x}")
        options: dict[str, float] = {"epoch_seconds": seconds}
        if each == 1:
            options["crash_at_epoch"] = 3
        spec = RunSpec(
            run_id=run_id,
            project=f"stub-{each}",
            trainer="fake",
            settings=TrainSettings(
                model="stub", data="none", imgsz=32, epochs=epochs, options=options
            ),
            effective_batch=8,
            folder=str(home / "runs" / run_id),
            memory_bytes=2 * 1024**3 if each == 2 else None,
            retry=_PATIENT,
        )
        specs.append(spec)
    return specs


def real_specs(home: Path, number: int, epochs: int) -> Sequence[RunSpec]:
    """Two YOLO detectors and two timm classifiers, each on a whole emulated card."""
    yolo = {
        "model": str(DATA / "weights" / "yolov8n.pt"),
        "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
        "imgsz": 96,
    }
    timm = {"model": "timm/test_resnet", "data": str(DATA / "cls_trashnet6"), "imgsz": 64}
    config = {
        "runs": str(home / "runs"),
        "defaults": {"epochs": epochs, "batch": 8, "workers": 0, "optimizer": "AdamW"},
        "projects": [{"name": f"real-{each}", **(timm if each % 2 else yolo)} for each in range(4)],
    }
    path = home / "real.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    specs = []
    for each, project in enumerate(load_config(path, ()).projects):
        run_id = RunId(f"20260101-{number:06d}-real-run-{each:04x}")
        folder = str(home / "runs" / run_id)
        spec = replace(project.template, run_id=run_id, folder=folder, retry=_PATIENT)
        specs.append(replace(spec, memory_bytes=None))
    return specs
