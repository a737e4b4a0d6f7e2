"""What a drill with kills trains: stub runs whose training is a formula, or a real pair of runs."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.yolo_link import DATA
from orchestrator.messages import RunSubmitted
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunSpec, Seconds, TrainSettings

__all__ = ["RealWork", "StubWork", "Work"]


class Work(Protocol):
    """Runs of a drill, and the command that drives them to their end."""

    @property
    def num_runs(self) -> int:
        """Runs that a round adds."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs of each run."""
        ...

    @property
    def moments(self) -> Seconds:
        """Kills fall within so many seconds of a driver's start, or of the kill before."""
        ...

    def begin(self, home: Path, number: int) -> None:
        """Ask for a round of runs."""
        ...

    def command(self, home: Path) -> list[str]:
        """Starts a driver that goes on with what the store holds."""
        ...


@dataclass(frozen=True, slots=True)
class StubWork:
    """Three runs: two that share the smaller card, and one that takes a card whole."""

    num_runs: int = 3
    epochs: int = 30
    moments: Seconds = 15.0  # Ray starts for 5, gangs train for 6
    epoch_seconds: Seconds = 0.2

    def begin(self, home: Path, number: int) -> None:
        """Ask for three runs."""
        options = {"epoch_seconds": self.epoch_seconds}
        settings = TrainSettings(
            model="stub", data="none", imgsz=32, epochs=self.epochs, options=options
        )
        with SqlStore(str(home / "orchestrator.db")) as store:
            for each in range(self.num_runs):
                run_id = RunId(f"20260101-{number:06d}-stub-run-{each:04x}")
                spec = RunSpec(
                    run_id=run_id,
                    project=f"stub-{each}",
                    trainer="fake",
                    settings=settings,
                    effective_batch=8,
                    folder=str(home / "runs" / run_id),
                    memory_bytes=2 * 1024**3 if each else None,
                )
                store.ask(RunSubmitted(at=time.time(), spec=spec))

    def command(self, home: Path) -> list[str]:
        """A driver of its own, whose device is a ledger of bytes."""
        return [sys.executable, "-m", "jobs.stub_driver", str(home)]


@dataclass(frozen=True, slots=True)
class RealWork:
    """A YOLO detector and a timm classifier on two emulated cards, by the command itself.

    A kill is answered as a person would: with `orc resume`.
    """

    num_runs: int = 2
    epochs: int = 8
    moments: Seconds = 45.0  # Ray and the imports take 10, the trainings about 40

    def begin(self, home: Path, number: int) -> None:
        """Write the round's config (JSON is YAML)."""
        yolo = {
            "name": f"yolo-{number}",
            "model": str(DATA / "weights" / "yolov8n.pt"),
            "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
            "imgsz": 96,
        }
        timm = {
            "name": f"timm-{number}",
            "model": "timm/test_resnet",
            "data": str(DATA / "cls_trashnet6"),
            "imgsz": 64,
        }
        config = {
            "cluster": {"emulate": ["RTX 2060 6GB", "RTX 4080 SUPER 16GB"]},
            "runs": str(home / "runs"),
            "defaults": {"epochs": self.epochs, "batch": 8, "workers": 0, "optimizer": "AdamW"},
            "projects": [yolo, timm],
        }
        (home / "chaos.yaml").write_text(json.dumps(config))

    def command(self, home: Path) -> list[str]:
        """The command that a person types: `orc train`, and after a kill `orc resume`."""
        with SqlStore(str(home / "orchestrator.db")) as store:
            is_begun = any(not status.state.is_terminal for status in store.statuses())
            is_begun = is_begun or bool(store.waiting())
        words = ["resume"] if is_begun else ["train", str(home / "chaos.yaml")]
        return [sys.executable, "-m", "orchestrator", *words, "--home", str(home)]
