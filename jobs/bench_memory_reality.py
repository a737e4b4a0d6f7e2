"""Predicted peak of live tensors against the peak counted while the same step really runs.

The step really runs on this machine's CPU under `device.live.LiveBytes`, and is traced with fake
tensors of the *CPU* through the same machinery: autocast's rules and the optimizers' kernels differ
between CPU and CUDA, so like is compared with like. What this shows is that fake tensors, the walk
of the graph and the assumptions about labels stand for the real thing; it says nothing about how
CUDA's own kernels differ, which the trace takes from torch.

Fails (exit 1) above 0.5 % median or 3 % worst absolute error.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

from orchestrator.plan.workload import Labels, Workload
from orchestrator.trainer.yolo_settings import environment
from orchestrator.types import Bytes

__all__ = ["main", "peak_of", "settings"]

_MEDIAN, _WORST = 0.005, 0.03
_PRECISIONS = ("fp32", "bf16", "fp16")
_OPTIMIZERS = ("AdamW", "SGD", "RMSprop")
_TIMM = (  # model, image size, batch
    ("mobilenetv3_small_050", 128, 16),
    ("efficientnet_b0", 96, 8),
    ("resnet18", 96, 8),
    ("resnet50", 64, 4),
    ("vit_tiny_patch16_224", 224, 4),
    ("convnext_atto", 96, 8),
    ("swin_tiny_patch4_window7_224", 224, 2),
    ("densenet121", 64, 4),
    ("regnety_002", 96, 8),
    ("mixer_s32_224", 224, 4),
)
_YOLO = (  # model, task, image size, batch
    ("yolov8n.yaml", "detect", 160, 4),
    ("yolo11n.yaml", "detect", 192, 4),
    ("yolo12n.yaml", "detect", 160, 2),
    ("yolo26n.yaml", "detect", 160, 4),
    ("yolov9t.yaml", "detect", 128, 4),
    ("yolov10n.yaml", "detect", 160, 4),
    ("yolo11n-seg.yaml", "segment", 160, 4),
    ("yolo11n-pose.yaml", "pose", 160, 4),
    ("yolo11n-obb.yaml", "obb", 160, 4),
    ("yolo26n-cls.yaml", "classify", 160, 8),
)


def settings() -> list[tuple[Workload, int]]:
    """Forty workloads with a batch each: ten models of both families, each in two ways."""
    found: list[tuple[Workload, int]] = []
    labels = Labels(most=6, mean=6.0, area=0.04)
    models: list[tuple[str, str, str, int, int]] = [
        *(("timm", name, "classify", size, batch) for name, size, batch in _TIMM),
        *(("yolo", name, task, size, batch) for name, task, size, batch in _YOLO),
    ]
    for number, (trainer, name, task, size, batch) in enumerate(models):
        for way in (0, 1):
            is_cuttable = "v10" not in name
            found.append(
                (
                    Workload(
                        trainer=trainer,
                        model=name,
                        imgsz=size,
                        num_classes=10,
                        task=task,
                        precision=_PRECISIONS[(number + way) % 3],
                        optimizer=_OPTIMIZERS[(number // 3 + way) % 3],
                        is_cut=way == 1 and number % 2 == 0 and is_cuttable,
                        is_checkpointed=way == 1 and number % 2 == 1,
                        has_ema=(number + way) % 4 != 0,
                        labels=labels if task != "classify" else None,
                    ),
                    batch,
                )
            )
    return found


def _counted(workload: Workload, batch: int) -> tuple[Bytes, Sequence[Any]]:
    """Peak of the real step, and the events that led to it."""
    import torch

    from orchestrator.device.live import LiveBytes
    from orchestrator.memory.answers import Answers
    from orchestrator.memory.stage import Stage
    from orchestrator.memory.trace import steps_of

    torch.manual_seed(0)
    steps = steps_of(workload)
    built = steps.build(is_fake=False)
    stage = Stage(torch.device("cpu"), Answers(labels=workload.labels, batch=batch))
    live = LiveBytes(keep_events=True)
    # From its usual start of 65536 the scale of fp16 makes gradients infinite and the first updates
    # are skipped, so that there would be no optimizer state to compare.
    scaler: Any = torch.amp.GradScaler
    torch.amp.GradScaler = partial(scaler, init_scale=2.0**-10)  # type: ignore[misc,assignment]
    try:
        with live:
            alive = steps.perform(stage, built, batch)
    finally:
        torch.amp.GradScaler = scaler  # type: ignore[misc]
    del alive, built
    return live.peak_bytes, live.events or ()


def peak_of(trace: Any) -> Bytes:
    """The peak of live bytes of a traced step, each storage rounded as an allocator rounds it."""
    from orchestrator.device.live import block_bytes
    from orchestrator.memory.events import Birth

    sizes: dict[int, Bytes] = {}
    live = peak = 0
    for event in trace.events:
        if isinstance(event, Birth):
            sizes[event.storage] = block_bytes(event.num_bytes)
            live += sizes[event.storage]
            peak = max(peak, live)
        else:
            live -= sizes.pop(event)
    return peak


def _at_peak(sizes: dict[str, int], events: Any) -> dict[str, int]:
    """Bytes by operator at the peak of (storage, bytes, operator) events, deaths negative."""
    living: dict[int, tuple[str, int]] = {}
    live = peak = 0
    best: dict[int, tuple[str, int]] = {}
    for storage, num_bytes, name in events:
        if num_bytes > 0:
            living[storage] = (name, num_bytes)
            live += num_bytes
            if live > peak:
                peak, best = live, dict(living)
        else:
            live -= living.pop(storage)[1]
    for name, num_bytes in best.values():
        sizes[name] = sizes.get(name, 0) + num_bytes
    return sizes


def _cause(trace: Any, events: Sequence[Any]) -> str:
    """The operators whose bytes at the peak differ most between trace and reality."""
    from orchestrator.memory.events import Birth

    born: dict[int, Bytes] = {}
    traced: list[tuple[int, int, str]] = []
    for event in trace.events:
        if isinstance(event, Birth):
            born[event.storage] = event.num_bytes
            traced.append((event.storage, event.num_bytes, event.op))
        else:
            traced.append((event, -born[event], ""))
    seen = [
        (e.storage, e.num_bytes, e.op.removeprefix("aten.").removesuffix(".default"))
        for e in events
    ]
    predicted, counted = _at_peak({}, traced), _at_peak({}, seen)
    off = {k: predicted.get(k, 0) - counted.get(k, 0) for k in predicted.keys() | counted.keys()}
    worst = sorted(off.items(), key=lambda item: -abs(item[1]))[:4]
    return ", ".join(f"{name} {num_bytes / 2**20:+.2f} MiB" for name, num_bytes in worst)


def _row(workload: Workload, batch: int) -> float:
    from orchestrator.memory.trace import trace_step

    begin = time.perf_counter()
    counted, events = _counted(workload, batch)
    trace = trace_step(workload, batch, device="cpu")
    predicted = peak_of(trace)
    error = predicted / counted - 1
    ways = [
        workload.precision,
        workload.optimizer,
        "EMA" if workload.has_ema else "",
        "cut" if workload.is_cut else "",
        "checkpointed" if workload.is_checkpointed else "",
    ]
    print(
        f"{workload.model:30} {workload.imgsz:4} b{batch:<3} {' '.join(filter(None, ways)):28}"
        f" counted {counted / 2**20:8.2f} MiB, predicted {predicted / 2**20:8.2f},"
        f" {100 * error:+6.2f} % ({time.perf_counter() - begin:.0f} s)",
        flush=True,
    )
    if abs(error) > _MEDIAN:
        print(f"    predicted minus counted at the peaks: {_cause(trace, events)}", flush=True)
    return abs(error)


def main() -> int:
    """Print a row for every setting, median and worst; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="settings whose model contains this")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(environment(folder))
        import torch

        torch.set_num_threads(1)
        logging.disable(logging.WARNING)
        rows = [(w, batch) for w, batch in settings() if only in w.model]
        errors = [_row(workload, batch) for workload, batch in rows]
    median, worst = statistics.median(errors), max(errors)
    print(f"{len(errors)} settings: median {100 * median:.3f} %, worst {100 * worst:.2f} %")
    return int(median > _MEDIAN or worst > _WORST)


if __name__ == "__main__":
    sys.exit(main())
