"""Mean completion times of the product's policy beside published ones, on the same job lists.

The ground is that of the simulator of Pollux (OSDI 2021): measured applications, 16 nodes of 4
GPUs, rounds of 60 s, 30 s for every restart. It is proved by running the published policies again:
their completion times must come out as published. Then the product's own policy is run with the
freedoms of each: rigid as Tiresias (the GPUs and the batch that the user asked for), elastic as
Optimus (that batch, own GPUs), adaptive as Pollux (own batch too).
"""

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.makespans import MAKESPANS
from jobs.yolo_link import DATA
from orchestrator.errors import OrchestratorError
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.pollux import Application
from orchestrator.simulation.pollux_files import (
    Published,
    Submission,
    read_applications,
    read_published,
    read_submissions,
)
from orchestrator.simulation.published import Optimus, Tiresias
from orchestrator.simulation.report import Figures, figures_of
from orchestrator.simulation.rounds import Job, Machine, Policy, simulate
from orchestrator.simulation.sized import NCF_BATCH, Freedom, Sized

__all__ = ["main"]

# Ten runs more end with the last ones, and a change has five minutes to pay for itself, not ten.
_GUARDED = ShortestFlow(tail_weight=10.0, horizon_seconds=300.0)
_ERROR = 0.3  # of a forecast: the standard deviation of its logarithm
_RIVALS = {Freedom.RIGID: "tiresias", Freedom.ELASTIC: "optimus", Freedom.ADAPTIVE: "pollux"}
_AGAIN: Mapping[Freedom, Callable[[], Policy]] = {
    Freedom.RIGID: Tiresias,
    Freedom.ELASTIC: Optimus,
}
_LOADS = {"workloads": "1.0", "workloads-2.0": "2.0"}
_CELLS = (
    ("p50_s", 7, 0),
    ("p99_s", 8, 0),
    ("makespan_s", 10, 0),
    ("mean_unfairness", 8, 2),
    ("worst_unfairness", 7, 2),
    ("mean_starts", 8, 1),
)
_TOLD = """
What favours ours, and which row goes without it:
- ours knows what is left of every job and the true step time at every width. Optimus was told both;
  Tiresias and Pollux neither.
- "30 % error": what is left is wrong by a log-normal factor of each job's own (sigma 0.3, seeded).
- "no forecast": nothing is told; the GPU-seconds that a job has had stand for what is left.
- "guarded tail": what is left is known; the last ones to end count for 10 runs more (else for 1),
  and a change has to pay for itself in 5 minutes (else 10). Both were chosen on workloads 1 to 4.
- "exploring": no more than twice the GPUs that a job has tried, as Pollux.
- whether jobs that lie on too many nodes move together is judged by the tables too.
- adaptive: how the gradient's statistics will develop is known, as part of what is left and of how
  the next 20 minutes of work (on one GPU) scale; the batch itself is chosen by those last seen, as
  in Pollux. ncf is held at one GPU and batch 32768, as published.
The constants of ours were chosen on workloads 1 and 2 and on the set workloads-2.0.
Unfairness: completion time over the time alone on a 1/n share (Themis); below 1 a job gained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line of the table."""

    freedom: str
    policy: str
    workload: str
    figures: Mapping[str, float | None]


class _Ground:
    """What was read, and how a workload is run on it."""

    def __init__(self, folder: Path, set_name: str, seed: int) -> None:
        self.apps: Mapping[str, Application] = read_applications(folder)
        self.lists = read_submissions(folder)
        self.published = read_published(folder)
        self.set_name = set_name
        self.seed = seed
        self.machine = Machine()

    def rows(self, freedom: Freedom, workload: str) -> list[_Row]:
        """Published, run again, and ours with more and with less knowledge."""
        jobs = self.lists[self.set_name, workload]
        rival = _RIVALS[freedom]
        found: dict[str, Mapping[str, float | None]] = {}
        told = self.published.get((f"{rival}-{_LOADS.get(self.set_name)}", workload))
        if told is not None:
            found[f"{rival}, published"] = self._told(told, rival, workload)
        if freedom in _AGAIN:
            found[f"{rival}, run again"] = self._run(jobs, freedom, _AGAIN[freedom]())
        for name, policy in self._ours(jobs, freedom, workload).items():
            found[name] = self._run(jobs, freedom, policy)
        return [
            _Row(freedom=freedom.value, policy=name, workload=workload, figures=figures)
            for name, figures in found.items()
        ]

    def _ours(
        self, jobs: Sequence[Submission], freedom: Freedom, workload: str
    ) -> dict[str, Policy]:
        chance = random.Random(f"{self.seed}/{workload}")
        exact = {job.name: 1.0 for job in jobs}
        wrong = {job.name: math.exp(chance.gauss(0.0, _ERROR)) for job in jobs}
        policy = ShortestFlow()
        ways: dict[str, Policy] = {
            "ours": Sized(policy, freedom, exact),
            "ours, 30 % error": Sized(policy, freedom, wrong),
            "ours, no forecast": Sized(policy, freedom, None),
            "ours, guarded tail": Sized(_GUARDED, freedom, exact),
        }
        if freedom is Freedom.ADAPTIVE:
            ways["ours, exploring"] = Sized(policy, freedom, exact, is_exploring=True)
        return ways

    def _run(
        self, rows: Sequence[Submission], freedom: Freedom, policy: Policy
    ) -> Mapping[str, float | None]:
        jobs = [Job(row, self.apps[row.app], _batch(row, freedom)) for row in rows]
        figures: Figures = figures_of(simulate(jobs, policy, self.machine), freedom, self.machine)
        return asdict(figures)

    def _told(self, told: Published, rival: str, workload: str) -> Mapping[str, float | None]:
        return {
            "average_s": told.average_s,
            "p50_s": told.p50_s,
            "p99_s": told.p99_s,
            "makespan_s": MAKESPANS[self.set_name, rival].get(workload),
        }


def _batch(row: Submission, freedom: Freedom) -> int | None:
    if freedom is not Freedom.ADAPTIVE:
        return row.batch
    return NCF_BATCH if row.app == "ncf" else None


def _means(rows: Sequence[_Row]) -> list[_Row]:
    """Each policy over its workloads, in the order of the rows."""
    names = dict.fromkeys((row.freedom, row.policy) for row in rows)
    means = []
    for freedom, policy in names:
        every = [row.figures for row in rows if (row.freedom, row.policy) == (freedom, policy)]
        figures: dict[str, float | None] = {}
        for key in every[0]:
            told = [each[key] for each in every]
            known = [each for each in told if each is not None]
            figures[key] = statistics.fmean(known) if len(known) == len(told) else None
        means.append(_Row(freedom=freedom, policy=policy, workload="mean", figures=figures))
    return means


def _print(rows: Sequence[_Row]) -> None:
    first: dict[str, float | None] = {}
    print(f"{'workload':9}{'policy':24}{'mean s':>9}{'':>8}{'p50 s':>7}{'p99 s':>8}{'makespan':>10}"
          f"{'unfair':>8}{'worst':>7}{'starts':>8}")  # fmt: skip
    for row in rows:
        group = f"{row.freedom}, {row.workload}"
        if group not in first:
            first[group] = row.figures["average_s"]
            print(group)
        average, rival = row.figures["average_s"], first[group]
        assert average is not None, "every row has a mean"
        less = f"{100 * (average / rival - 1):+.1f} %" if rival else ""
        texts = [f"{_text(row.figures.get(key), digits):>{width}}" for key, width, digits in _CELLS]
        print(f"{'':9}{row.policy:24}{average:9.0f}{less:>8}{''.join(texts)}")


def _text(figure: float | None, digits: int) -> str:
    return "-" if figure is None else f"{figure:.{digits}f}"


def main() -> int:
    """Run every policy on every workload of a set, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "traces" / "pollux")
    parser.add_argument("--set", default="workloads", help="of the job lists")
    parser.add_argument("--workload", nargs="*", default=["1", "2", "3", "4"])
    parser.add_argument("--mode", nargs="*", default=[each.value for each in Freedom])
    parser.add_argument("--seed", type=int, default=0, help="of the errors of forecasts")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        ground = _Ground(chosen.data, chosen.set, chosen.seed)
    except OrchestratorError as error:
        print(f"[{error.code}] {error.what}", *error.why, *error.fix, sep="\n  ", file=sys.stderr)
        return error.exit_code
    known = sorted(workload for name, workload in ground.lists if name == chosen.set)
    if not set(chosen.workload) <= set(known):
        print(f"workloads of {chosen.set!r}: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    rows: list[_Row] = []
    for freedom in (Freedom(mode) for mode in chosen.mode):
        for workload in chosen.workload:
            rows += ground.rows(freedom, workload)
    every = [*rows, *_means(rows)]
    if chosen.json:
        print(json.dumps({"set": chosen.set, "rows": [asdict(row) for row in every]}, indent=1))
        return 0
    _print(every)
    print(_TOLD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
