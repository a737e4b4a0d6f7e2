"""Bench: what the governor costs while nothing happens; steps with and without it, in turn.

Both sides train the same model on the same batch in one process, a step each in turn. Told are the
median ratio of their processor seconds, beside that of two sides without it, and the seconds that
the governor itself takes around a step (its own calls without the step's work), as a share of the
step. The goal is 0.5 %.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
import torch

from jobs.yolo_link import QuietLink, task_of
from orchestrator.device.cpu import CpuDevice
from orchestrator.ports import RunLink
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.options_memory import MemoryOptions
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.update import UpdateRoom
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_step import CutStep
from orchestrator.types import Bytes, TrainTask

GOAL = 0.005
BATCH = 16


class Limited(CpuDevice):
    """A CPU with a budget that is never reached: the governor does all that it does on a card."""

    @property
    def budget_bytes(self) -> Bytes:  # type: ignore[override] # a limit where the CPU has none
        """More than there is."""
        return 1 << 50


class Timed(Governor):
    """A governor whose own seconds are counted, without those of the work it runs."""

    def __init__(self, task: TrainTask, link: RunLink) -> None:
        super().__init__(task, Limited(), link, MemoryOptions())
        self.seconds: list[float] = []

    def step(self, work: Callable[[int], Any], state: Any) -> Any:
        """As the governor's, with a clock."""
        inside = 0.0

        def timed(size: int) -> Any:
            nonlocal inside
            begin = time.process_time()
            found = work(size)
            inside = time.process_time() - begin
            return found

        begin = time.process_time()
        found = super().step(timed, state)
        self.seconds.append(time.process_time() - begin - inside)
        return found

    def has_room(self, num_bytes: Bytes) -> bool:
        """As the governor's, with a clock; part of the step before."""
        begin = time.process_time()
        found = super().has_room(num_bytes)
        self.seconds[-1] += time.process_time() - begin
        return found


def timed_governor(folder: Path, model: str) -> Timed:
    """A governor on a device that has room."""
    task = task_of(folder, folder, model, epochs=1, imgsz=64, batch=BATCH)
    governor = Timed(task, QuietLink(folder))
    governor.epoch_begins(1)
    return governor


def classifier(name: str, imgsz: int, governor: Any) -> Callable[[], object]:
    """A step of a timm model."""
    torch.manual_seed(0)
    settings = task_of(Path(tempfile.gettempdir()), Path(), name, epochs=1, imgsz=imgsz, batch=1)
    learner = Learner(
        timm.create_model(name, num_classes=10),
        settings.spec.settings,
        TimmOptions(),
        device=torch.device("cpu"),
        micro_batch=BATCH,
        steps_per_epoch=1000,
        governor=governor,
    )
    batch = torch.randn(BATCH, 3, imgsz, imgsz), torch.randint(0, 10, (BATCH,))
    return lambda: learner.learn(batch)


def detector(name: str, imgsz: int, governor: Any) -> Callable[[], object]:
    """A step of a YOLO model, as ultralytics' loop takes it."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(name, nc=3, verbose=False)
    model.args = get_cfg(overrides={"task": "detect", "epochs": 10})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer = SimpleNamespace(
        model=model, args=model.args, batch_size=BATCH, world_size=0, accumulate=1, scaler=scaler
    )
    model.forward = CutStep(trainer, BATCH, dict, governor=governor)
    room = UpdateRoom(optimizer, governor) if governor else None
    batch = {
        "img": torch.rand(BATCH, 3, imgsz, imgsz),
        "batch_idx": torch.arange(BATCH).float().repeat_interleave(3),
        "cls": torch.randint(0, 3, (3 * BATCH, 1)).float(),
        "bboxes": torch.rand(3 * BATCH, 4) * 0.4 + 0.2,
    }

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = model(batch)
        loss.sum().backward()
        if room is not None:
            room.demand()
        optimizer.step()

    return step


def compare(name: str, make: Callable[[Any], Callable[[], object]], timed: Timed, n: int) -> float:
    """Print both measures of one model; return the governor's own share."""
    ours, plain, other = sides = make(timed), make(None), make(None)
    for step in (*sides, *sides):
        step()
    timed.seconds.clear()
    ratios, null, steps = [], [], []
    for number in range(n):
        took: dict[Any, float] = {}
        for turn in range(3):
            step = sides[(number + turn) % 3]
            begin = time.process_time()
            step()
            took[step] = time.process_time() - begin
        ratios.append(took[ours] / took[plain])
        null.append(took[other] / took[plain])
        steps.append(took[plain])
    own, step_seconds = statistics.mean(timed.seconds), statistics.median(steps)
    share = own / step_seconds
    print(
        f"{name}: step {step_seconds * 1e3:.1f} ms, median ratio {statistics.median(ratios):.4f}"
        f" over {n} (two without it: {statistics.median(null):.4f}); the governor's own"
        f" {own * 1e6:.0f} us, {share:.3%} of the step"
    )
    return share


def main() -> None:
    """Compare a classifier and a detector; end with 1 if the governor takes more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"steps": 60, "imgsz": 160}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shares = []
    with tempfile.TemporaryDirectory() as name, apart(name):
        for model, make in (("mobilenetv3_small_050", classifier), ("yolo11n.yaml", detector)):
            timed = timed_governor(Path(name), model)

            def made(governor: Any, make: Any = make, model: str = model) -> Callable[[], object]:
                found: Callable[[], object] = make(model, args.imgsz, governor)
                return found

            shares.append(compare(model, made, timed, args.steps))
    print(f"goal: at most {GOAL:.1%} of a step")
    sys.exit(max(shares) > GOAL)


if __name__ == "__main__":
    main()
