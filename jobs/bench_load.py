"""A store with thousands of queued runs: seconds of a submit and of `orc queue`, a driver's memory.

`python -m jobs.bench_load --projects 1000 --folds 5 --minutes 3 [--cluster ray|sim]`. The runs are
those of the fake trainer. With `ray` a driver serves them on a Ray of its own with two stub cards;
with `sim` they all run to their end in virtual time, in a driver without Ray.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Pause

import psutil

from jobs.load_driver import COMMAND
from orchestrator.client.access import Client
from orchestrator.console.queue import show_queue
from orchestrator.console.read import list_runs
from orchestrator.types import RunId, RunSpec, Seconds, TrainSettings

__all__ = ["Took", "lists", "main", "specs", "submits", "timed", "told", "watched"]

MIB = 1024**2
GOALS = {"submit p99": 0.050, "queue": 0.200, "list": 0.200}  # seconds
RSS_MIB = 300
_LOOK: Seconds = 1.0  # between two looks at the driver's memory


def specs(home: Path, project: int, folds: int) -> list[RunSpec]:
    """The runs of one project."""
    name = f"load-{project:04d}"
    settings = TrainSettings(
        model="fake", data="none", imgsz=32, epochs=5, options={"epoch_seconds": 0.05}
    )
    ids = [RunId(f"20260101-{project:06d}-load-run-{fold:04x}") for fold in range(folds)]
    return [
        RunSpec(
            run_id=run_id,
            project=name,
            trainer="fake",
            settings=settings,
            effective_batch=8,
            folder=str(home / "runs" / name / run_id),
        )
        for run_id in ids
    ]


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds on the clock, and of computing: the machine may be busy with other things."""

    wall: Seconds
    cpu: Seconds


def timed(work: Callable[[], object]) -> Took:
    """Seconds that something takes, its child processes included."""
    begun, computed = time.perf_counter(), _computed()
    work()
    return Took(time.perf_counter() - begun, _computed() - computed)


def _computed() -> Seconds:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def submits(client: Client, projects: range, folds: int) -> Iterator[Took]:
    """Seconds of asking for each project, with a key, durably."""
    for project in projects:
        asked = specs(client.home, project, folds)
        keys = [f"load/{spec.run_id}" for spec in asked]
        yield timed(lambda asked=asked, keys=keys: client.submit(asked, keys))  # type: ignore[misc] # the lambda is called at once


def told(name: str, took: Sequence[Took], goal: Seconds | None = None) -> None:
    """Print the median, the 99th percentile (of few: the most), and the mean of computing."""
    wall = sorted(each.wall * 1e3 for each in took)
    p99 = statistics.quantiles(wall, n=100)[98] if len(wall) >= 100 else wall[-1]
    mark = "" if goal is None else f"  goal {goal * 1e3:.0f} ms: {_verdict(p99 <= goal * 1e3)}"
    cpu = statistics.fmean(each.cpu * 1e3 for each in took)
    print(
        f"{name:<36} {len(wall):>5} x  p50 {statistics.median(wall):6.0f} ms  p99 {p99:6.0f} ms"
        f"  CPU {cpu:6.1f} ms{mark}",
        flush=True,
    )


def _verdict(is_met: bool) -> str:  # noqa: FBT001 - private, one argument
    return "met" if is_met else "MISSED"


def lists(client: Client, when: str) -> None:
    """Seconds of `orc queue` and `orc ls`, in this process and as commands."""
    with contextlib.redirect_stdout(io.StringIO()):
        queue = [timed(lambda: show_queue(client, only=None, as_json=False)) for _ in range(10)]
        every = [
            timed(lambda: list_runs(client, as_json=False, project=None, limit=None))
            for _ in range(10)
        ]
    told(f"orc queue, in process, {when}", queue, GOALS["queue"])
    told(f"orc ls, in process, {when}", every, GOALS["list"])
    words = [sys.executable, "-m", "orchestrator"]
    for name in ("--version", "queue", "ls"):
        command = [*words, name, *(() if name == "--version" else ("--home", str(client.home)))]
        seconds = [
            timed(lambda command=command: subprocess.run(command, capture_output=True, check=True))  # type: ignore[misc] # noqa: S603 - our own command
            for _ in range(5)
        ]
        told(f"orc {name}, command, {when}", seconds)


def watched(client: Client, driver: psutil.Process, minutes: float, at: range, folds: int) -> None:
    """Watch a driver for some minutes, and ask it for one more project every second.

    The same is asked of a store beside it that nobody drives: what takes longer with the driver is
    waiting for it, the rest is the work itself and whatever else the machine does.
    """
    until = time.monotonic() + minutes * 60
    sizes: list[float] = []
    waits: list[Took] = []
    others: list[Took] = []
    more = submits(client, at, folds)
    beside = submits(Client(client.home / "beside"), at, folds)
    while time.monotonic() < until and driver.is_running():
        with contextlib.suppress(psutil.Error):
            sizes.append(driver.memory_info().rss / MIB)
        waits.append(next(more))
        others.append(next(beside))
        Pause().wait(_LOOK)
    third = max(1, len(sizes) // 3)
    first, last = statistics.fmean(sizes[:third]), statistics.fmean(sizes[-third:])
    print(
        f"driver's RSS over {len(sizes)} s: first third {first:.0f} MiB, last third {last:.0f} MiB,"
        f" most {max(sizes):.0f} MiB  (goal {RSS_MIB} MiB: {_verdict(max(sizes) <= RSS_MIB)})",
        flush=True,
    )
    told("submit of a project while it drives", waits, GOALS["submit p99"])
    told("the same beside it, nobody drives", others)


def main() -> int:
    """Fill a store, look at it, drive it, look again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--cluster", choices=("ray", "sim"), default="ray")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orc-load-") as folder:
        client = Client(Path(folder))
        begun = time.perf_counter()
        seconds = list(submits(client, range(words.projects), words.folds))
        told(f"submit of {words.folds} runs, nobody drives", seconds, GOALS["submit p99"])
        print(f"{words.projects * words.folds} runs in {time.perf_counter() - begun:.1f} s")
        lists(client, "not taken")
        command = [*COMMAND, words.cluster, folder]
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
        begun = time.perf_counter()
        while driver.poll() is None and _num_waiting(client):
            Pause().wait(0.2)
        print(f"the driver has taken all after {time.perf_counter() - begun:.1f} s", flush=True)
        more = range(words.projects, words.projects + 100_000)
        watched(client, psutil.Process(driver.pid), words.minutes, more, words.folds)
        lists(client, "driven")
        ended = len(client.runs()) - len(client.queue())
        print(f"{ended} runs have ended")
        driver.terminate()
        return driver.wait()


def _num_waiting(client: Client) -> int:
    with client.store() as store:
        return len(store.waiting_for())


if __name__ == "__main__":
    sys.exit(main())
