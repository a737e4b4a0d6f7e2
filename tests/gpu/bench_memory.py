"""Predictions of memory against a real card: `python -m tests.gpu.bench_memory [--out FILE]`.

Three parts, together under ten minutes on one card:

* error: 60 settings really run two steps; `max_memory_reserved` against the predicted reserve;
* budgets: 100 planned launches under 6, 8, 12, 16 and 24 GiB, the budget enforced: how often
  memory ran out before the governor could act, and how much of the budget was used;
* autobatch: ultralytics' own choice for the detectors of the same grid, under the same limits.

Ends with 1 when a goal is missed, and with 0 and the reason where there is no CUDA. Pictures are
blank and labels made up: both sides see the same numbers of them.
"""

# ruff: noqa: T201 - the allocator's settings are read when torch is loaded; a bench prints

import os

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as workers are given both

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.process import trace_all
from orchestrator.memory.replay import demand, largest
from orchestrator.plan.overheads import Overheads, driver_bytes, overheads
from orchestrator.plan.workload import Labels, Workload
from orchestrator.types import Bytes

GIB = 1 << 30
BUDGETS = (6, 8, 12, 16, 24)  # GiB
GOALS = {"median": 0.03, "p95": 0.08, "use": 0.85}
LABELS = Labels(most=60, mean=20)
PRECISIONS = ("fp16", "bf16", "fp32")
OPTIMIZERS = ("AdamW", "SGD", "Adam")
DETECTORS = (
    *(f"yolo{v}{s}.yaml" for v, s in product(("v8", "11", "26"), "nsmlx")), "yolo11s-seg.yaml",
    "yolo11m-seg.yaml", "yolov8s-pose.yaml", "yolo11n-cls.yaml",
)  # fmt: skip
CLASSIFIERS = (
    "resnet18", "resnet50", "efficientnet_b0", "efficientnet_b3", "mobilenetv3_large_100",
    "convnext_tiny", "convnext_base", "vit_small_patch16_224", "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224", "densenet121", "regnety_016",
)  # fmt: skip
TASKS = {"-seg": "segment", "-pose": "pose", "-obb": "obb", "-cls": "classify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A workload and how many samples a step has."""

    workload: Workload
    batch: int


def settings() -> list[Setting]:
    """The 60 settings: 36 of detectors, 24 of classifiers, precisions and optimizers in turn."""
    found: list[Setting] = []
    for number in range(36):
        model = DETECTORS[number % len(DETECTORS)]
        task = next((t for word, t in TASKS.items() if word in model), "detect")
        size = 224 if task == "classify" else (640, 512, 416)[number % 3]
        found.append(_setting("yolo", model, size, 80, number, (16, 8, 24)[number // 3 % 3], task))
    for number in range(24):
        again, at = divmod(number, len(CLASSIFIERS))
        batch = (64, 32, 128)[(number + again) % 3]
        found.append(_setting("timm", CLASSIFIERS[at], 224, 1000, number + again, batch))
    return found


def _setting(
    trainer: str, model: str, size: int, classes: int, number: int, batch: int,
    task: str = "classify",
) -> Setting:  # fmt: skip
    workload = Workload(
        trainer=trainer,
        model=model,
        imgsz=size,
        num_classes=classes,
        task=task,
        precision=PRECISIONS[number % 3],
        optimizer=OPTIMIZERS[number // 2 % 3],
        is_channels_last=trainer == "yolo",
        labels=None if task == "classify" else LABELS,
    )
    return Setting(workload=workload, batch=batch)


def traced(workloads: Sequence[Workload], processes: int) -> dict[Workload, LinearTrace]:
    """Trace them, several at a time; what cannot be traced ends the bench with its error."""
    parts = [workloads[at::processes] for at in range(processes)]
    found: dict[Workload, LinearTrace] = {}
    with ThreadPoolExecutor(processes) as pool:
        for part, pairs in zip(parts, pool.map(trace_all, parts), strict=True):
            for workload, pair in zip(part, pairs, strict=True):
                if isinstance(pair, Exception):
                    raise pair
                found[workload] = LinearTrace.of(*pair)
    return found


@contextmanager
def held_to(num_bytes: Bytes | None) -> Iterator[None]:
    """Hold torch's reserve to so many bytes, and leave the card empty."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if num_bytes is None else num_bytes / total)
    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


def really_run(setting: Setting) -> None:
    """Perform two steps of the setting on the card; its memory is free again afterwards."""
    from orchestrator.memory.answers import Answers
    from orchestrator.memory.stage import Stage
    from orchestrator.memory.trace import steps_of

    workload = setting.workload
    stage = Stage(torch.device("cuda", 0), Answers(labels=workload.labels, batch=setting.batch))
    steps = steps_of(workload)
    alive = steps.perform(stage, steps.build(is_fake=False), setting.batch)
    torch.cuda.synchronize()
    del alive, steps


def error_rows(chosen: Sequence[Setting], traces: dict[Workload, LinearTrace]) -> list[Any]:
    """Predicted and measured peaks of every setting that the card holds."""
    rows = []
    about = card_overheads()
    for setting in chosen:
        asked = demand(traces[setting.workload], setting.batch)
        predicted = about.likely_bytes(asked) - about.outside_bytes
        row: dict[str, Any] = {**_named(setting), "predicted_bytes": predicted}
        with held_to(None):
            try:
                really_run(setting)
                row["reserved_bytes"] = torch.cuda.max_memory_reserved()
                row["allocated_bytes"] = torch.cuda.max_memory_allocated()
                row["predicted_allocated_bytes"] = asked.allocated_bytes
                row["error"] = predicted / row["reserved_bytes"] - 1
            except torch.OutOfMemoryError as error:
                row["out_of_memory"] = str(error).splitlines()[0]
        rows.append(row)
    return rows


def budget_rows(chosen: Sequence[Setting], traces: dict[Workload, LinearTrace]) -> list[Any]:
    """Twenty settings under each budget, at the largest batch that was planned to fit."""
    rows = []
    about = card_overheads()
    for gib, setting in product(BUDGETS, chosen):
        budget = gib * GIB - about.outside_bytes
        batch = largest(traces[setting.workload], about.capacity(gib * GIB), at_most=512)
        if not batch:
            rows.append({**_named(setting), "budget_gib": gib, "batch": 0})
            continue
        planned = replace(setting, batch=batch)
        row: dict[str, Any] = {**_named(planned), "budget_gib": gib, "out_of_memory": False}
        with held_to(budget):
            try:
                really_run(planned)
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            used = torch.cuda.max_memory_reserved() + about.outside_bytes
            row["use"] = used / (gib * GIB)
            row["is_limited"] = batch < 512  # otherwise the bench, not the budget, set the batch
        rows.append(row)
    return rows


def autobatch_rows(chosen: Sequence[Setting]) -> list[Any]:
    """What ultralytics' AutoBatch chooses for the detectors, and whether that then trains."""
    from ultralytics.utils.autobatch import check_train_batch_size

    from orchestrator.memory.trace import steps_of

    rows = []
    for gib, setting in product(BUDGETS, chosen):
        if setting.workload.trainer != "yolo" or setting.workload.task == "classify":
            continue
        begin = time.perf_counter()
        total = torch.cuda.get_device_properties(0).total_memory
        with held_to(gib * GIB):
            built: Any = steps_of(setting.workload).build(is_fake=False)
            model = built.model.to("cuda")
            # AutoBatch plans with a fraction of what the card has free; the fraction stands for
            # the budget, since it does not look at the limit of the process.
            batch = check_train_batch_size(
                model, setting.workload.imgsz, amp=setting.workload.precision != "fp32",
                batch=0.6 * gib * GIB / total, max_num_obj=LABELS.most,
            )  # fmt: skip
            seconds = time.perf_counter() - begin
            del built, model
        row = {**_named(replace(setting, batch=int(batch))), "budget_gib": gib, "seconds": seconds}
        with held_to(gib * GIB):
            try:
                really_run(replace(setting, batch=int(batch)))
                row["out_of_memory"] = False
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            row["use"] = torch.cuda.max_memory_reserved() / (gib * GIB)
        rows.append(row)
    return rows


def card_overheads() -> Overheads:
    """Of the card at hand, as the plan counts them."""
    from orchestrator.device.catalogue import find_card

    return overheads(find_card(torch.cuda.get_device_name(0)).architecture)


def _named(setting: Setting) -> dict[str, Any]:
    workload = setting.workload
    keys = ("model", "imgsz", "precision", "optimizer")
    return {key: getattr(workload, key) for key in keys} | {"batch": setting.batch}


def judge(report: dict[str, Any]) -> list[str]:
    """The goals that were missed, in words; empty when all were met."""
    errors = sorted(abs(row["error"]) for row in report["error"] if "error" in row)
    missed = []
    if len(errors) < 0.9 * len(report["error"]):
        missed.append(f"only {len(errors)} of {len(report['error'])} settings ran")
    if errors:
        median, p95 = statistics.median(errors), errors[round(0.95 * (len(errors) - 1))]
        report["summary"]["error_median"], report["summary"]["error_p95"] = median, p95
        if median > GOALS["median"] or p95 > GOALS["p95"]:
            missed.append(f"error: median {median:.1%}, 95th percentile {p95:.1%}")
    launched = [row for row in report["budgets"] if row["batch"]]
    died = sum(row["out_of_memory"] for row in launched)
    use = [row["use"] for row in launched if row["is_limited"] and not row["out_of_memory"]]
    report["summary"] |= {"launches": len(launched), "out_of_memory": died}
    if died:
        missed.append(f"{died} of {len(launched)} planned launches ran out of memory")
    if use:
        report["summary"]["use_median"] = statistics.median(use)
        if statistics.median(use) < GOALS["use"]:
            missed.append(f"median use of the budget {statistics.median(use):.1%}")
    return missed


def main() -> int:
    """Run the parts, print the summary, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=8, help="that trace at the same time")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA on this machine")
        return 0
    begin = time.perf_counter()
    chosen = settings()
    # One name a tracing: precision and optimizer are part of a workload.
    traces = traced(list(dict.fromkeys(s.workload for s in chosen)), given.processes)
    some = chosen[::3]
    report: dict[str, Any] = {
        "card": torch.cuda.get_device_name(0),
        "driver_bytes": driver_bytes(torch.cuda.get_device_properties(0).total_memory),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "date": time.strftime("%Y-%m-%d"),
        "trace_seconds": time.perf_counter() - begin,
        "overheads": asdict(card_overheads()),
        "summary": {},
    }
    report["error"] = error_rows(chosen, traces)
    report["budgets"] = budget_rows(some, traces)
    report["autobatch"] = autobatch_rows(some)
    missed = judge(report)
    report["summary"]["seconds"] = time.perf_counter() - begin
    for name in ("error", "budgets", "autobatch"):
        for row in report[name]:
            print(name, json.dumps(row))
    print(json.dumps(report["summary"], indent=1))
    out = given.out or Path(tempfile.mkdtemp(prefix="orc-bench-")) / "memory.json"
    out.write_text(json.dumps(report, indent=1))
    print(f"written to {out}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
