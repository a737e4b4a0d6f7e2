"""What a drill with kills looks at: whom to kill, who is left, and what the journal says after."""

import contextlib
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.messages import GangStarted, ProgressReported, RunSubmitted
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunState, Seconds

__all__ = ["Tally", "descendants", "left_over", "victims", "violations"]

_GONE_WITHIN: Seconds = 10.0  # of a kill; later they count as survivors
_LOOK: Seconds = 0.02
_NAMES = {"worker": ("ray::Worker",), "ray": ("raylet", "gcs_server")}


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a drill counted."""

    target: str
    kills: int = 0
    rounds: int = 0
    hangs: int = 0
    survivors: int = 0
    runs: int = 0
    epochs: int = 0
    attempts: int = 0
    repeated: int = 0
    ends: list[Seconds] = field(default_factory=list)

    def wait_for_end(self, driver: subprocess.Popen[bytes], limit: Seconds) -> None:
        """Wait until the driver ends; one that does not is counted, and killed."""
        begun = time.monotonic()
        try:
            driver.wait(limit)
        except subprocess.TimeoutExpired:
            self.hangs += 1
            driver.kill()
            driver.wait()
        if driver.returncode:  # it was killed, or found that its Ray was
            self.ends.append(time.monotonic() - begun)

    def line(self, seconds: Seconds) -> str:
        """One row of the table."""
        return (
            f"{self.target:6}{self.kills:7}{self.rounds:8}{self.runs:6}{self.epochs:8}"
            f"{self.attempts:10}{self.repeated:10}{self.hangs:7}{self.survivors:11}"
            f"{max(self.ends, default=0.0):8.1f}{seconds:9.0f}"
        )


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below this one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def victims(
    driver: subprocess.Popen[bytes], target: str, *, not_before: float, limit: Seconds
) -> list[psutil.Process]:
    """Whom to kill, at `not_before` (monotonic) or as soon as there is one; none if all is over."""
    while driver.poll() is None and time.monotonic() < not_before + limit:
        if time.monotonic() >= not_before:
            if target == "driver":
                return [psutil.Process(driver.pid)]
            found = [process for process in descendants(driver.pid) if _is(process, target)]
            if found:
                return found
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(_LOOK)
    return []


def left_over(family: list[psutil.Process]) -> int:
    """How many of a killed family are still there after the time that they have."""
    _, alive = psutil.wait_procs(family, timeout=_GONE_WITHIN)
    return sum(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive
    )


def violations(tally: Tally, home: Path, epochs: int) -> list[str]:
    """Everything that is not as promised; fills the tally's counts of runs and epochs."""
    wrong: list[str] = []
    if tally.hangs:
        wrong.append(f"{tally.target}: a driver hung {tally.hangs} times")
    if tally.survivors:
        wrong.append(f"{tally.target}: {tally.survivors} processes survived")
    with SqlStore(str(home / "orchestrator.db")) as store:
        events = list(store.replay())
        submitted = [event.spec for event in events if isinstance(event, RunSubmitted)]
        for spec in submitted:
            run_id = spec.run_id
            state = store.status(run_id).state
            told = [progress.epoch for progress in store.progress(run_id)]
            if state is not RunState.SUCCEEDED:
                wrong.append(f"{run_id}: {state}")
            if told != list(range(1, epochs + 1)):
                wrong.append(f"{run_id}: progress rows {told}")
            newest = store.checkpoints(run_id)[0]
            if not FileCheckpoints(spec.folder).verify(newest):
                wrong.append(f"{run_id}: its last checkpoint is not as recorded")
            tally.epochs += len(told)
    tally.runs = len(submitted)
    tally.attempts = sum(isinstance(event, GangStarted) for event in events)
    return wrong + _repeats(tally, [e for e in events if isinstance(e, ProgressReported)])


def _repeats(tally: Tally, reports: list[ProgressReported]) -> list[str]:
    """Attempts that did not go on where the journal was, from a checkpoint that it names."""
    wrong: list[str] = []
    newest: dict[RunId, ProgressReported] = {}
    for report in reports:
        before = newest.get(report.attempt.run_id)
        last = before.progress.epoch if before else 0
        again = last + 1 - report.progress.epoch
        if again > 1 or again < 0 or (again and before and before.attempt == report.attempt):
            wrong.append(f"{report.attempt}: epoch {report.progress.epoch} after {last}")
        if last and (before is None or before.checkpoint is None):
            wrong.append(f"{report.attempt}: epoch {last} has no checkpoint")
        tally.repeated += max(0, again)
        newest[report.attempt.run_id] = report
    counts = Counter((r.attempt, r.progress.epoch) for r in reports)
    return wrong + [f"{key} recorded {count} times" for key, count in counts.items() if count > 1]


def _is(process: psutil.Process, target: str) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        if target == "ray":
            return process.name() in _NAMES["ray"]
        return bool(command) and command[0].startswith(_NAMES["worker"])
    return False
