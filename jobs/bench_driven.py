"""The job lists of `jobs.bench_policies` through the product's own scheduler and driver.

There a policy is asked in rounds of a simulator of its own. Here each job is a run: submitted,
placed by the product's rules, asked to leave and started again, with every event in a journal.

    python -m jobs.bench_driven [--set NAME] [--workload 1 2 3 4] [--mode rigid elastic]
        [--policy NAME] [--seeds N] [--json]
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from jobs.makespans import MAKESPANS
from jobs.yolo_link import DATA
from orchestrator.errors import OrchestratorError
from orchestrator.schedule.standard import POLICIES
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.driven import Driven, Terms, drive_jobs
from orchestrator.simulation.pollux_files import (
    Submission,
    read_applications,
    read_published,
    read_submissions,
)
from orchestrator.simulation.rounds import Machine
from orchestrator.simulation.sized import Freedom
from orchestrator.types import StopMode

__all__ = ["main"]

_Row: TypeAlias = dict[str, object]

_MINUTE = 60.0  # by which a job may come earlier or later

_RIVALS = {Freedom.RIGID: "tiresias", Freedom.ELASTIC: "optimus", Freedom.ADAPTIVE: "pollux"}
_LOADS = {"workloads": "1.0", "workloads-2.0": "2.0"}


@dataclass(frozen=True, slots=True)
class _Way:
    """How much is known, and whether a restart keeps the unfinished epoch."""

    name: str
    forecast_error: float | None
    is_speed_known: bool = True
    keeps_unfinished_epochs: bool = True


_WAYS = (
    _Way("all is known", 0.0),
    _Way("what is left is 30 % wrong", 0.3),
    _Way("what is left is learned", None),
    _Way("and an unfinished epoch is repeated", None, keeps_unfinished_epochs=False),
    _Way("and speeds are learned too", None, is_speed_known=False),
    _Way(
        "nothing is known, epochs are repeated",
        None,
        is_speed_known=False,
        keeps_unfinished_epochs=False,
    ),
)
_FIGURES = ("average_s", "p99_s", "makespan_s")
_TOLD = """
"all is known": speed at every width and what is left, as Optimus was told. "learned": by the epochs
of the run and of runs like it, and by the pace of the first 30 s of an attempt. Published systems
save within an epoch, and so do the product's trainers: with them, "and speeds are learned too" is
what the product knows. Where the unfinished epoch is repeated, that is part of what a change costs,
and epochs that end before the next round are waited for. Runs
that share a signature (model and batch) count as alike; jobs of one list often do, which favours
learning. Where the batch is free, agents fit a law of step times to what jobs of the application
have tried, go to twice that at most, and know the gain by the statistics seen last. With --seeds
the lists are run again with each job up to a minute earlier or later: "+-" is the deviation of the
mean over the lists. Percentages are against the published run."""


def main() -> int:
    """Run the lists, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA / "traces" / "pollux")
    parser.add_argument("--set", default="workloads")
    parser.add_argument("--workload", nargs="*", default=["1", "2", "3", "4"])
    parser.add_argument("--mode", nargs="*", default=[each.value for each in Freedom])
    parser.add_argument("--policy", nargs="*", choices=[*POLICIES], default=[*POLICIES])
    parser.add_argument("--seeds", type=int, default=1, help="of other minutes; 1: as published")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        ground = _Ground(chosen.data, chosen.set)
    except OrchestratorError as error:
        print(f"[{error.code}] {error.what}", *error.why, *error.fix, sep="\n  ", file=sys.stderr)
        return error.exit_code
    rows: list[_Row] = []
    for freedom, way, policy in product(map(Freedom, chosen.mode), _WAYS, chosen.policy):
        some = [
            ground.row(freedom, way, policy, workload, seed)
            for workload, seed in product(chosen.workload, range(chosen.seeds))
        ]
        rows += some
        if not chosen.json:
            for row in some:
                _print(row)
            _print_mean(some)
    if chosen.json:
        print(json.dumps({"set": chosen.set, "rows": rows}, indent=1))
    else:
        print(_TOLD)
    return 0


class _Ground:
    """What was read, and how a list is run on it."""

    def __init__(self, folder: Path, set_name: str) -> None:
        self._apps, self._lists = read_applications(folder), read_submissions(folder)
        self._published = read_published(folder)
        self._set = set_name

    def row(self, freedom: Freedom, way: _Way, name: str, workload: str, seed: int) -> _Row:
        """One list, driven; its figures, and the published ones."""
        mode = StopMode.AT_BATCH if way.keeps_unfinished_epochs else StopMode.AFTER_EPOCH
        policy = POLICIES[name]
        assert isinstance(policy, ShortestFlow), "every policy of a driver is one of these"
        jobs, scheduler = drive_jobs(
            _moved(self._lists[self._set, workload], f"{workload}/{seed}" if seed else None),
            self._apps,
            replace(policy, resize_mode=mode),
            Machine(),
            Terms(
                freedom=freedom,
                is_speed_known=way.is_speed_known,
                forecast_error=way.forecast_error,
                keeps_unfinished_epochs=way.keeps_unfinished_epochs,
            ),
        )
        rival = _RIVALS[freedom]
        told = self._published[f"{rival}-{_LOADS[self._set]}", workload]
        published = (told.average_s, told.p99_s, MAKESPANS[self._set, rival][workload])
        return (
            {"mode": freedom.value, "way": way.name, "policy": name}
            | {"workload": workload, "seed": seed}
            | _figures(jobs)
            | {f"published_{key}": value for key, value in zip(_FIGURES, published, strict=True)}
            | {"forecast_error": scheduler.score.mean_error}
        )


def _moved(jobs: Sequence[Submission], seed: str | None) -> Sequence[Submission]:
    """The jobs, each a minute earlier or later at most."""
    if seed is None:
        return jobs
    chance = random.Random(seed)
    return [
        replace(job, submit_s=max(job.submit_s + chance.uniform(-_MINUTE, _MINUTE), 0.0))
        for job in jobs
    ]


def _figures(jobs: Sequence[Driven]) -> dict[str, object]:
    times = sorted(job.completion_s for job in jobs)
    return {
        "average_s": statistics.fmean(times),
        "p50_s": times[len(times) // 2],
        "p99_s": times[int(0.99 * len(times))],
        "makespan_s": max(job.ended_at for job in jobs),
        "starts": statistics.fmean(job.num_starts for job in jobs),
    }


def _number(row: _Row, key: str) -> float:
    return float(str(row[key]))


def _head(rows: Sequence[_Row], workload: str) -> str:
    row = rows[0]
    return f"{row['mode']:9}{row['way']:38}{row['policy']:14}{workload:>5}"


def _cells(rows: Sequence[_Row]) -> str:
    """Means of ours, and by how much they differ from the published ones."""
    texts = []
    for key in _FIGURES:
        ours = statistics.fmean(_number(row, key) for row in rows)
        theirs = statistics.fmean(_number(row, f"published_{key}") for row in rows)
        texts.append(f"{key[:-2]:>9} {ours:6.0f} {100 * (ours / theirs - 1):+5.1f} %")
    return "".join(texts)


def _print(row: _Row) -> None:
    error = row["forecast_error"]
    print(
        f"{_head([row], str(row['workload']))}{_cells([row])}  starts {_number(row, 'starts'):.1f}"
        f"  forecasts off by {'-' if error is None else f'{100 * float(str(error)):.0f} %'}",
        flush=True,
    )


def _print_mean(rows: Sequence[_Row]) -> None:
    seeds = {row["seed"] for row in rows}
    means = [
        statistics.fmean(_number(row, "average_s") for row in rows if row["seed"] == seed)
        for seed in seeds
    ]
    spread = f"  +-{statistics.stdev(means):.0f} s over {len(means)} seeds" if means[1:] else ""
    print(f"{_head(rows, 'mean')}{_cells(rows)}{spread}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
