"""Trials per second of a sweep of stub runs, against plain Ray Tune with the same function.

`python -m jobs.bench_sweep_overhead [TRIALS] [PLAIN]` conducts so many trials through store, queue,
driver and workers, and lets Tune run (as many, or PLAIN) as functions in its own processes, a new
one for each as by default. The memory of our driver and of who conducts is sampled at even numbers
of trials; its slope is that of a line through the second half, when caches are full.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression
from typing import Any, NamedTuple

import psutil

from jobs.stub_sweep import service_command
from orchestrator.client.access import Client
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct
from orchestrator.sweep.conductor import Conductor

__all__ = ["main", "ours", "plain"]

_CONCURRENT = 4
_LOOKS = 25
_SPACE = {"lr0": {"loguniform": [1e-4, 1.0]}, "batch": [16, 32, 64, 128]}
_CONFIG = {
    "projects": [
        {
            "name": "stub",
            "model": "fake",
            "data": "none",
            "trainer": "fake",
            "epochs": 1,
            "steps_per_epoch": 1,
            "best_lr0": 0.01,
            "resources": {"memory": "1GiB"},
            "memory": {"predict": False},
        }
    ],
    "sweep": {
        "name": "overhead",
        "search": "random",
        "scheduler": "none",
        "max_concurrent": _CONCURRENT,
        "space": _SPACE,
    },
}


class _Look(NamedTuple):
    """Memory, once so many trials were started."""

    trials: int
    seconds: float
    driver_mib: float
    conductor_mib: float


def ours(num_trials: int, home: Path) -> dict[str, Any]:
    """Conduct so many trials; times count from the moment when the driver is there."""
    client = Client(home)
    asking.create(client, _CONFIG, [f"sweep.trials={num_trials}", f"runs={home / 'runs'}"])
    seen: dict[str, float] = {}
    looks: list[_Look] = []

    def watch(conductor: Conductor) -> None:
        seen.setdefault("first", time.monotonic())
        started = conductor.study.num_started
        driver = next(iter(_drivers(home)), None)
        if driver is not None and started >= len(looks) * num_trials / _LOOKS:
            looks.append(
                _Look(
                    started,
                    round(time.monotonic() - seen["first"], 1),
                    round(driver.memory_info().rss / 2**20, 1),
                    round(psutil.Process().memory_info().rss / 2**20, 1),
                )
            )

    record = conduct(client, "overhead", said=_said, watch=watch, command=service_command(home))
    seconds = time.monotonic() - seen["first"]
    pids: set[int] = set()
    with client.store() as store:
        for _, event in store.events():
            pids.update(getattr(event, "pids", ()))
    return {
        "trials": len(record.started),
        "finished": sum(trial.state.value == "FINISHED" for trial in record.started),
        "seconds": round(seconds, 1),
        "trials_per_second": round(len(record.started) / seconds, 3),
        "worker_processes": len(pids),
        "looks": [look._asdict() for look in looks],
        "driver_mib_per_100_trials": _slope([(x.trials, x.driver_mib) for x in looks]),
        "conductor_mib_per_100_trials": _slope([(x.trials, x.conductor_mib) for x in looks]),
    }


def _slope(points: Sequence[tuple[int, float]]) -> float:
    """Of a line through the second half, by least squares, per 100 trials."""
    late = points[len(points) // 2 :]
    if len(late) < 2:
        return 0.0
    return round(100.0 * linear_regression(*zip(*late, strict=True)).slope, 3)


def _drivers(home: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children()
        if str(home) in process.cmdline() and "jobs.stub_service" in process.cmdline()
    ]


def plain(num_trials: int) -> dict[str, Any]:
    """Let Ray Tune run the same function so many times, as many at a time."""
    import ray
    from ray import tune

    from orchestrator.sweep.block import read_space
    from orchestrator.sweep.space import sample

    space = read_space(_SPACE)
    values = [dict(sample(space, random.Random(f"0/{n}"))) for n in range(num_trials)]
    ray.init("local", num_cpus=_CONCURRENT, include_dashboard=False, logging_level="ERROR")

    def function(given: dict[str, Any]) -> None:
        import math

        config = given["values"]
        loss = 1.0 + math.log10(config["lr0"] / 0.01) ** 2
        loss += 0.05 * math.log2(config["batch"] / 64) ** 2
        tune.report({"loss": loss, "score": 1.0 / (1.0 + loss)})

    began = time.monotonic()
    grid = tune.Tuner(
        tune.with_resources(function, {"CPU": 1}),
        param_space={"values": tune.grid_search(values)},
        tune_config=tune.TuneConfig(max_concurrent_trials=_CONCURRENT),
        run_config=tune.RunConfig(verbose=0, storage_path=tempfile.mkdtemp()),
    ).fit()
    seconds = time.monotonic() - began
    ray.shutdown()
    return {
        "trials": len(grid),
        "seconds": round(seconds, 1),
        "trials_per_second": round(len(grid) / seconds, 3),
    }


def _said(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(num_trials: int, num_plain: int) -> None:
    """Print both rates and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        own = ours(num_trials, Path(name))
    print(json.dumps({"ours": own}), flush=True)
    words = [sys.executable, "-m", "jobs.bench_sweep_overhead", "plain", str(num_plain)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)  # noqa: S603
    other = json.loads(done.stdout.strip().splitlines()[-1])
    ratio = own["trials_per_second"] / other["trials_per_second"]
    print(json.dumps({"ours": own, "plain_tune": other, "ratio": round(ratio, 2)}, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        print(json.dumps(plain(int(sys.argv[2]))))
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(given[0] if given else 1000, given[-1] if given else 1000)
