"""The job lists of `jobs.bench_policies` through the product's own scheduler and driver.

There a policy is asked in rounds of a simulator of its own. Here each job is a run: submitted,
placed by the product's rules, asked to leave and started again, with every event in a journal.

    python -m jobs.bench_driven [--set NAME] [--workload 1 2 3 4] [--mode rigid elastic] [--json]
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.yolo_link import DATA
from orchestrator.errors import OrchestratorError
from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.driven import Driven, Terms, drive_jobs
from orchestrator.simulation.pollux_files import (
    read_applications,
    read_published,
    read_submissions,
)
from orchestrator.simulation.rounds import Machine
from orchestrator.simulation.sized import Freedom
from orchestrator.types import StopMode

__all__ = ["main"]

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
)
_TOLD = """
"all is known": speed at every width and what is left, as Optimus was told. "learned": by the epochs
of the run and of runs like it. Published systems save within an epoch; where the unfinished epoch
is repeated, gangs are resized at its end, or at once where less of it is done than is left, as the
product does. Runs that share a signature (model and batch) count as alike; jobs of one list often
do, which favours learning. A minute more or less at submission moves a list's mean by up to 5 %
where something is learned."""


def main() -> int:
    """Run the lists, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA / "traces" / "pollux")
    parser.add_argument("--set", default="workloads")
    parser.add_argument("--workload", nargs="*", default=["1", "2", "3", "4"])
    parser.add_argument("--mode", nargs="*", default=[each.value for each in Freedom])
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        apps, lists = read_applications(chosen.data), read_submissions(chosen.data)
        published = read_published(chosen.data)
    except OrchestratorError as error:
        print(f"[{error.code}] {error.what}", *error.why, *error.fix, sep="\n  ", file=sys.stderr)
        return error.exit_code
    rows: list[dict[str, object]] = []
    for freedom in (Freedom(mode) for mode in chosen.mode):
        for way in _WAYS:
            for workload in chosen.workload:
                mode = StopMode.AT_BATCH if way.keeps_unfinished_epochs else StopMode.AFTER_EPOCH
                jobs, scheduler = drive_jobs(
                    lists[chosen.set, workload],
                    apps,
                    ShortestFlow(resize_mode=mode),
                    Machine(),
                    Terms(
                        freedom=freedom,
                        is_speed_known=way.is_speed_known,
                        forecast_error=way.forecast_error,
                        keeps_unfinished_epochs=way.keeps_unfinished_epochs,
                    ),
                )
                told = published[f"{_RIVALS[freedom]}-{_LOADS[chosen.set]}", workload]
                rows.append(
                    {"mode": freedom.value, "way": way.name, "workload": workload}
                    | _figures(jobs)
                    | {"published_average_s": told.average_s, "published_p99_s": told.p99_s}
                    | {"forecast_error": scheduler.score.mean_error}
                )
                if not chosen.json:
                    _print(rows[-1])
            if not chosen.json:
                _print_mean(rows[-len(chosen.workload) :])
    if chosen.json:
        print(json.dumps({"set": chosen.set, "rows": rows}, indent=1))
    else:
        print(_TOLD)
    return 0


def _figures(jobs: Sequence[Driven]) -> dict[str, object]:
    times = sorted(job.completion_s for job in jobs)
    return {
        "average_s": statistics.fmean(times),
        "p50_s": times[len(times) // 2],
        "p99_s": times[int(0.99 * len(times))],
        "makespan_s": max(job.ended_at for job in jobs),
        "starts": statistics.fmean(job.num_starts for job in jobs),
    }


def _print(row: dict[str, object]) -> None:
    average, rival = float(str(row["average_s"])), float(str(row["published_average_s"]))
    error = row["forecast_error"]
    print(
        f"{row['mode']:9} {row['way']:36} {row['workload']:>4} {average:7.0f} s"
        f" ({100 * (average / rival - 1):+.1f} % of {rival:.0f})"
        f"  p99 {float(str(row['p99_s'])):6.0f} ({float(str(row['published_p99_s'])):.0f})"
        f"  makespan {float(str(row['makespan_s'])):6.0f}  starts {float(str(row['starts'])):.1f}"
        f"  forecasts off by {'-' if error is None else f'{100 * float(str(error)):.0f} %'}",
        flush=True,
    )


def _print_mean(rows: Sequence[dict[str, object]]) -> None:
    ours = statistics.fmean(float(str(row["average_s"])) for row in rows)
    theirs = statistics.fmean(float(str(row["published_average_s"])) for row in rows)
    print(f"{'':9} {'mean':36}      {ours:7.0f} s ({100 * (ours / theirs - 1):+.1f} %)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
