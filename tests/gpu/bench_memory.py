"""Predictions of memory against a real card: `python -m tests.gpu.bench_memory [--out FILE]`.

Four parts, side by side in processes of their own, together under ten minutes on one card:

* error: 60 settings really run two steps; `max_memory_reserved` against the predicted reserve;
* budgets: 100 planned launches under 6, 8, 12, 16 and 24 GiB, the budget enforced: how often
  memory ran out before the governor could act, and how much of the budget was used;
* autobatch: ultralytics' own choice for the detectors of the same grid, under the same limits;
* recovery: room is taken away under a running step: what that costs, in steps.

Processes take turns on the card where it cannot hold all at once, and begin nothing more once the
time is up: what was measured until then is told, and what is missing. Ends with 1 when a goal is
missed, and with 0 and the reason where there is no CUDA. Pictures are blank and labels made up:
both sides see the same numbers of them.
"""

# ruff: noqa: T201 - a bench prints

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orchestrator.memory.cache import TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.process import trace_all
from orchestrator.plan.overheads import driver_bytes
from orchestrator.plan.workload import Workload
from tests.gpu.memory_grid import GIB, settings
from tests.gpu.memory_work import card_overheads

GOALS = {"median": 0.03, "p95": 0.08, "use": 0.85, "lost_steps": 3.0}
WHOLE = {"error": 60, "budgets": 100, "autobatch": 60, "recovery": 3}
PROCESSES = {"error": 4, "budgets": 4, "autobatch": 4, "recovery": 1}
GRACE = 20  # seconds that a row may take beyond the time, before its process is ended


def keep_traces(workloads: Sequence[Workload], folder: Path, processes: int) -> None:
    """Trace them, several at a time; what cannot be traced ends the bench with its error."""
    parts = [workloads[at::processes] for at in range(processes)]
    kept = TraceCache(folder)
    with ThreadPoolExecutor(processes) as pool:
        for part, pairs in zip(parts, pool.map(trace_all, parts), strict=True):
            for workload, pair in zip(part, pairs, strict=True):
                if isinstance(pair, Exception):
                    raise pair
                kept.keep_trace(kept.key(workload), LinearTrace.of(*pair))


def run_all(folder: Path, deadline: float, processes: Mapping[str, int]) -> dict[str, str]:
    """Run the parts side by side; returns the last words of processes that ended wrong."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory() as logs:
        for part, of in processes.items():
            for share in range(of):
                name = f"{part}-{share}"
                with (Path(logs) / name).open("wb") as log:
                    running[name] = subprocess.Popen(
                        [sys.executable, "-m", "tests.gpu.memory_work", part, str(share), str(of),
                         str(folder), str(deadline)],
                        stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
                    )  # fmt: skip
        for process in running.values():
            try:
                process.wait(max(deadline + GRACE - time.time(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        said = {name: (Path(logs) / name).read_text(errors="replace") for name in running}
    return {
        name: " | ".join(said[name].strip().splitlines()[-3:])
        for name, process in running.items()
        if process.returncode
    }


def rows_of(folder: Path, part: str) -> list[dict[str, Any]]:
    """What the processes of a part have written; a line that was cut off does not count."""
    texts = [path.read_text() for path in sorted(folder.glob(f"{part}-*.jsonl"))]
    lines = [line for text in texts for line in text.splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


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
    report["summary"]["autobatch"] = _autobatch(report["autobatch"])
    lost = [row["lost_steps"] for row in report["recovery"]]
    report["summary"]["lost_steps"] = lost
    if max(lost, default=0.0) > GOALS["lost_steps"]:
        missed.append(f"a recovery took the time of {max(lost):.1f} steps")
    done = {name: len(report[name]) for name in WHOLE}
    missed += [
        f"{name}: {done[name]} of {whole} rows in the time that there was"
        for name, whole in WHOLE.items()
        if done[name] < whole
    ]
    return missed


def _autobatch(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How often what AutoBatch chose ran out, what it used of the card, and its seconds."""
    ran = [row for row in rows if row["batch"]]
    died = [row for row in ran if row["out_of_memory"]]
    return {
        "asked": len(rows),
        "no_batch": len(rows) - len(ran),
        "out_of_memory": len(died),
        "use_median": statistics.median([row["use"] for row in ran] or [0.0]),
        "seconds_median": statistics.median([row["seconds"] for row in ran] or [0.0]),
    }


def main() -> int:
    """Trace, run the parts, print the summary, write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=12, help="that trace at the same time")
    parser.add_argument("--seconds", type=float, default=540.0, help="all told")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no CUDA on this machine")
        return 0
    begin, about = time.time(), card_overheads()
    total = torch.cuda.get_device_properties(0).total_memory
    report: dict[str, Any] = {
        "card": torch.cuda.get_device_name(0),
        "driver_bytes": driver_bytes(total),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "date": time.strftime("%Y-%m-%d"),
        "overheads": asdict(about),
        "summary": {},
    }
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as name:
        folder = Path(name)
        # Precision and optimizer are part of a workload, so each setting is traced.
        workloads = list(dict.fromkeys(setting.workload for setting in settings()))
        keep_traces(workloads, folder / "traces", given.processes)
        report["summary"]["trace_seconds"] = time.time() - begin
        room = total - (1 + sum(PROCESSES.values())) * about.outside_bytes
        for number in range(max(1, room // GIB)):
            (folder / f"room-{number:03d}").touch()
        report["failed"] = run_all(folder, begin + given.seconds - GRACE, PROCESSES)
        report |= {part: rows_of(folder, part) for part in PROCESSES}
    missed = judge(report) + [
        f"{name} ended wrong: {why}" for name, why in report["failed"].items()
    ]
    report["summary"]["seconds"] = time.time() - begin
    for part in PROCESSES:
        for row in report[part]:
            print(part, json.dumps(row))
    print(json.dumps(report["summary"], indent=1))
    out = given.out or Path(tempfile.mkdtemp(prefix="orc-bench-")) / "memory.json"
    out.write_text(json.dumps(report, indent=1))
    print(f"written to {out}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
