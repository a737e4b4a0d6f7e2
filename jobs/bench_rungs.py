"""What each rung of the ladder does to the peak and to the time of a step; predicted and measured.

The trainers' own steps really run on this machine's CPU. Bytes are those of live tensors, counted
as on an emulated card; the prediction is traced for the same CPU. Seconds are measured without
counting, in turn: in every round each way takes its steps once, in an order that alternates.

On a CPU the copies between host and card are copies within the host: what the bus of a card costs
shows nowhere here.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from jobs.bench_memory_reality import peak_of
from jobs.yolo_link import Stamp, now
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.memory.answers import Answers
from orchestrator.memory.stage import Stage
from orchestrator.memory.trace import Steps, steps_of, trace_step
from orchestrator.plan.workload import Labels, OptimizerState, Workload
from orchestrator.trainer.yolo_settings import environment
from orchestrator.types import Bytes, Card

__all__ = ["main", "took"]

_MIB = 1 << 20
_CARD = Card(index=0, name="card", memory_bytes=64 << 30, is_emulated=True)
_RUNGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "checkpointing": {"is_checkpointed": True},
    "optimizer_host": {"optimizer_state": OptimizerState.HOST},
    "both": {"is_checkpointed": True, "optimizer_state": OptimizerState.HOST},
}
_LABELS = Labels(most=6, mean=6.0, area=0.04)


class _TimedStage(Stage):
    """Performs steps on this machine, and notes when each began."""

    def __init__(self, device: EmulatedDevice, batch: int) -> None:
        super().__init__(torch.device("cpu"), Answers(labels=_LABELS, batch=batch))
        self._card = device
        self.began: list[Stamp] = []

    def host(self) -> AbstractContextManager[None]:
        """What is made inside is not the card's."""
        return self._card.host()

    def begin(self, step: int) -> None:
        """Note the moment."""
        self.began.append(now())


def took(steps: Steps, batch: int, count: int, *, is_counted: bool) -> tuple[Bytes, Stamp]:
    """Peak bytes (if they are counted) and the median seconds of a step, without the first.

    Seconds are those of the wall and those of the processor, which mind other programs less.

    Args:
        steps: Of a workload.
        batch: Samples of a step.
        count: Steps, at least two.
        is_counted: Whether bytes are counted, which takes time.
    """
    torch.manual_seed(0)
    device = EmulatedDevice(_CARD, _CARD.memory_bytes)
    stage = _TimedStage(device, batch)
    built = steps.build(is_fake=False)
    with device.session() if is_counted else nullcontext():
        alive = steps.perform(stage, built, batch, count)
    stamps = [*stage.began[1:], now()]
    del alive, built
    wall, cpu = (
        statistics.median(end - begin for begin, end in pairwise(clock))
        for clock in zip(*stamps, strict=True)
    )
    return device.peak_bytes(), (wall, cpu)


def _compare(workload: Workload, batch: int, rounds: int, count: int) -> None:
    loads = {name: replace(workload, **change) for name, change in _RUNGS.items()}
    ways = {name: steps_of(load) for name, load in loads.items()}
    counted = {name: took(steps, batch, 2, is_counted=True)[0] for name, steps in ways.items()}
    predicted = {name: peak_of(trace_step(load, batch, device="cpu"))
                 for name, load in loads.items()}  # fmt: skip
    seconds: dict[str, list[Stamp]] = {name: [] for name in ways}
    for number in range(rounds):
        order: Sequence[str] = tuple(ways) if number % 2 else tuple(ways)[::-1]
        for name in order:
            seconds[name].append(took(ways[name], batch, count, is_counted=False)[1])
    print(f"{workload.model}, {workload.imgsz} px, batch {batch}, {workload.optimizer}")
    for name in ways:
        pairs = list(zip(seconds[name], seconds["plain"], strict=True))
        ratios = [[mine[clock] / plain[clock] for mine, plain in pairs] for clock in (0, 1)]
        of_wall, of_cpu = (
            f"x {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"
            for each in ratios
        )
        step = statistics.median(wall for wall, _ in seconds[name])
        saved = counted["plain"] - counted[name]
        told = predicted["plain"] - predicted[name]
        print(
            f"  {name:15} peak {counted[name] / _MIB:8.2f} MiB (predicted"
            f" {predicted[name] / _MIB:8.2f}), x {counted[name] / counted['plain']:.3f};"
            f" saves {saved / _MIB:7.2f} MiB (predicted {told / _MIB:7.2f});"
            f" step {1000 * step:7.1f} ms, {of_wall}; of CPU time {of_cpu}",
            flush=True,
        )


def main() -> int:
    """Print peaks, savings and times of every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"rounds": 5, "steps": 6, "batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--timm", nargs="*", default=["convnext_atto", "resnet18"])
    parser.add_argument("--yolo", nargs="*", default=["yolo11n.yaml"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="rungs-") as folder:
        os.environ.update(environment(folder))
        plain = Workload(
            trainer="timm", model="", imgsz=128, num_classes=10, precision="fp32",
            has_flash_attention=False,
        )  # fmt: skip
        detector = replace(plain, trainer="yolo", imgsz=160, task="detect", labels=_LABELS)
        for model in given.timm:
            _compare(replace(plain, model=model), given.batch, given.rounds, given.steps)
        for model in given.yolo:
            _compare(replace(detector, model=model), given.batch, given.rounds, given.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
