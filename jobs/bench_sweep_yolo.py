"""A sweep of a detector against `YOLO.tune(use_ray=True)` and plain Ray Tune, in turn.

`python -m jobs.bench_sweep_yolo --out FILE [--trials 12 --epochs 3 --imgsz 96 --seeds 1]`

Same space, same number of trials, as many at once, the same arguments of the training; each system
in a process of its own, whose whole time counts: its imports, the start of Ray, and leaving.
`--early` lets all of them stop trials (ASHA, grace of one epoch); otherwise none does. FILE is a
JSON list that grows by a row after each system. Memory is the sum of the RSS of Ray's worker
processes, sampled twice a second, and so are the processor seconds of all processes of a system,
which mind less what else the machine does; `by_kind` says which processes took them. Ours is held
to its cards, whose sum is `limit_mib`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from jobs.sweep_systems import SYSTEMS, Budget
from jobs.yolo_link import DATA, without_scans

__all__ = ["Sampler", "main", "measure"]

_PERIOD = 0.5
_SECONDS = 1500.0  # of one system
_KINDS = {  # by what their command lines hold
    "memory.process": "trace",
    "jobs.fork_server": "imports and trace",  # what is forked from it has its name
    " serve ": "driver",
    "jobs.sweep_systems": "search",
    "ray::Inbox": "inbox",
    "ray::RuntimeEnvAgent": "ray itself",
    "ray::DashboardAgent": "ray itself",
    "ray::": "workers",
}


@dataclass(slots=True)
class Sampler:
    """What the processes below one take: processor seconds, and memory of the worker processes."""

    pid: int
    most_bytes: int = 0  # of all workers at one time
    most_processes: int = 0
    seconds: dict[tuple[int, float], float] = field(default_factory=dict)  # of the processor
    kinds: dict[tuple[int, float], str] = field(default_factory=dict)

    def sample(self) -> None:
        """Look once."""
        held = count = 0
        with suppress(psutil.Error):
            root = psutil.Process(self.pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.Error):
                    spent = process.cpu_times()
                    key = process.pid, process.create_time()
                    self.seconds[key] = spent.user + spent.system
                    words = process.cmdline()
                    if words:  # a process that has just ended has none
                        self.kinds[key] = _kind(" ".join(words))
                    if "".join(words[:1]).startswith("ray::"):
                        held += process.memory_info().rss
                        count += 1
        self.most_bytes = max(self.most_bytes, held)
        self.most_processes = max(self.most_processes, count)

    def by_kind(self) -> dict[str, float]:
        """Processor seconds by what the processes were for."""
        found: dict[str, float] = {}
        for key, seconds in self.seconds.items():
            kind = self.kinds.get(key, "ray itself")
            found[kind] = found.get(kind, 0.0) + seconds
        return {kind: round(seconds, 1) for kind, seconds in sorted(found.items())}


def _kind(command: str) -> str:
    return next((kind for text, kind in _KINDS.items() if text in command), "ray itself")


@contextmanager
def _sampled(pid: int) -> Iterator[Sampler]:
    sampler, is_over = Sampler(pid), Event()

    def work() -> None:
        while not is_over.wait(_PERIOD):
            sampler.sample()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield sampler
    finally:
        is_over.set()
        thread.join()


def measure(system: str, budget: Budget, folder: Path) -> dict[str, Any]:
    """One system from the start of its process to its end."""
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "jobs.sweep_systems", system]
    words += [json.dumps(asdict(budget)), str(folder)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    began, load = time.monotonic(), os.getloadavg()[0]
    with (folder / "out").open("w+") as out, (folder / "errors").open("w") as errors:
        child = subprocess.Popen(words, stdout=out, stderr=errors, env=environment)  # noqa: S603
        with _sampled(child.pid) as sampler:
            code = child.wait(_SECONDS)
        seconds = time.monotonic() - began
        out.seek(0)
        lines = out.read().strip().splitlines()
    found = json.loads(lines[-1]) if code == 0 else {"error": code}
    return {
        "system": system,
        "seconds": round(seconds, 1),
        "processor_seconds": round(sum(sampler.seconds.values()), 1),
        "by_kind": sampler.by_kind(),
        "rss_mib": sampler.most_bytes >> 20,
        "worker_processes_at_once": sampler.most_processes,
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        **found,
    }


def main() -> int:
    """Measure every system for every seed; 1 where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "det_bccd_tiny" / "data.yaml")
    parser.add_argument("--model", default=str(DATA / "weights" / "yolov8n.pt"))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--card", default="custom 1GiB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="keep what was trained in this folder")
    given = parser.parse_args()
    root = given.keep or Path(tempfile.mkdtemp(prefix="sweep-yolo-"))
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.exists() else []
    budget = Budget(
        data=str(without_scans(given.data, root / f"data-{time.time_ns()}")),
        model=given.model,
        trials=given.trials,
        epochs=given.epochs,
        imgsz=given.imgsz,
        is_early=given.early,
        card=given.card,
    )
    try:
        for seed in given.seeds:
            for system in given.systems:
                own = root / f"{system}-{seed}-{time.time_ns()}"
                row = measure(system, replace(budget, seed=seed), own)
                rows.append(row)
                given.out.write_text(json.dumps(rows, indent=1))
                print(json.dumps({k: v for k, v in row.items() if k != "budget"}), flush=True)
    finally:
        if given.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    return int(any("error" in row or row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
