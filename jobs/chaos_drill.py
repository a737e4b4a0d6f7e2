"""The state of a drill on two nodes: its driver, what was asked, what was hurt, who must go."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Pause

import psutil

from jobs.chaos import descendants
from jobs.chaos_nodes import QUICK, TwoNodes
from jobs.chaos_runs import real_specs, stub_specs
from jobs.doom import VARIABLE, Point
from orchestrator.messages import Event, GangStarted, RunSubmitted
from orchestrator.store.sql import SqlStore
from orchestrator.types import (
    AttemptId,
    RunId,
    RunState,
    RunStatus,
    Seconds,
)

__all__ = ["GONE_WITHIN", "LIMIT", "Drill", "Hurt"]

GONE_WITHIN: Seconds = 15.0  # of a kill; who is there later has survived
LIMIT: Seconds = 120.0  # what does not come by then does not come at all
_LOOK: Seconds = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Hurt:
    """What was done to whom, and when (Unix time). `attempts` are those whose worker it was."""

    kind: str
    at: Seconds
    attempts: tuple[AttemptId, ...] = ()


@dataclass(slots=True, kw_only=True)
class Drill:
    """One store, one Ray of two nodes, one driver after the other."""

    home: Path
    nodes: TwoNodes
    epochs: int = 20
    epoch_seconds: Seconds = 0.2
    is_real: bool = False
    driver: "subprocess.Popen[bytes] | None" = None
    starts: list[Seconds] = field(default_factory=list)  # of drivers, Unix time
    hurts: list[Hurt] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    frozen: list[AttemptId] = field(default_factory=list)
    zombie_checkpoints: dict[AttemptId, int] = field(default_factory=dict)
    asked: list[RunId] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    _doomed: list[tuple[Seconds, psutil.Process]] = field(default_factory=list)
    _seen: list[Event] = field(default_factory=list)
    _last: int = 0

    @property
    def path(self) -> str:
        """Of the store."""
        return str(self.home / "orchestrator.db")

    def ask(self, *wishes: Event) -> None:
        """Ask for something, durably."""
        with SqlStore(self.path) as store:
            for wish in wishes:
                store.ask(wish)

    def submit_round(self) -> None:
        """Ask for four runs."""
        number = len(self.asked)
        if self.is_real:
            specs = real_specs(self.home, number, self.epochs)
        else:
            specs = stub_specs(self.home, number, self.epochs, self.epoch_seconds)
        for spec in specs:
            self.ask(RunSubmitted(at=time.time(), spec=spec))
            self.asked.append(spec.run_id)  # acknowledged: from now on it counts

    def statuses(self) -> tuple[RunStatus, ...]:
        """What people read."""
        with SqlStore(self.path) as store:
            return store.statuses()

    def unfinished(self) -> list[RunId]:
        """Runs that were asked for and have not ended."""
        ended = {s.run_id for s in self.statuses() if s.state.is_terminal}
        return [run_id for run_id in self.asked if run_id not in ended]

    def running(self) -> list[RunStatus]:
        """Runs that train, and still will for some epochs."""
        soon = self.epochs - min(5, self.epochs // 2)
        return [s for s in self.statuses() if s.state is RunState.RUNNING and s.epoch < soon]

    def events(self) -> list[Event]:
        """The journal."""
        with SqlStore(self.path) as store:
            for number, event in store.events(since=self._last):
                self._last = number
                self._seen.append(event)
        return self._seen

    def attempt_of(self, process: psutil.Process) -> AttemptId | None:
        """The attempt that a worker runs, as the journal tells."""
        started = [e for e in self.events() if isinstance(e, GangStarted)]
        return next((e.attempt for e in reversed(started) if process.pid in e.pids), None)

    def has_driver(self) -> bool:
        """True while one runs."""
        return self.driver is not None and self.driver.poll() is None

    def start_driver(self, point: Point | None = None) -> None:
        """Start a driver; with a point it is going to kill itself there."""
        words = [str(self.home), "--address", self.nodes.address, *["--real"] * self.is_real]
        variables = {**os.environ, **QUICK, **({VARIABLE: str(point)} if point else {})}
        self.starts.append(time.time())
        with (self.home / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-m", "jobs.stub_driver", *words],
                env=variables,
                stdout=log,
                stderr=log,
            )

    def kill_driver(self) -> None:
        """End the driver as the system would: at any moment."""
        assert self.driver is not None
        self.driver.kill()
        self.driver_died("driver, any moment")

    def driver_died(self, kind: str) -> None:
        """A driver was killed: its workers have to go too."""
        assert self.driver is not None
        self.doom(*descendants(self.driver.pid), *self.nodes.workers())
        self.driver.wait()
        self.note(kind)

    def note(self, kind: str, *attempts: AttemptId) -> None:
        """Count a kill."""
        self.kills[kind] += 1
        self.hurts.append(Hurt(kind=kind, at=time.time(), attempts=attempts))

    def doom(self, *processes: psutil.Process) -> None:
        """These have to be gone within the time that they have."""
        self._doomed += [(time.monotonic() + GONE_WITHIN, process) for process in processes]

    def look_for_survivors(self) -> None:
        """Note who is still there after his time."""
        left = []
        for due, process in self._doomed:
            try:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = process.cmdline()
            except psutil.NoSuchProcess:  # it went between two of the questions
                continue
            if time.monotonic() < due:
                left.append((due, process))
            else:
                self.survivors.append(f"{process.pid} {' '.join(words)[:60]}")
        self._doomed = left

    def until(self, what: str, done: Callable[[], bool], limit: Seconds = LIMIT) -> bool:
        """Wait for something; False, and a hang counted, when it does not come."""
        pause, over = Pause(), time.monotonic() + limit
        while not done():
            self.look_for_survivors()
            if time.monotonic() > over:
                self.hangs.append(what)
                return False
            pause.wait(_LOOK)
        return True

    def finish(self) -> None:
        """Let all runs end, and all who have to go be gone."""
        if not self.has_driver():
            self.start_driver()
        assert self.driver is not None
        self.until("the last driver ends", lambda: not self.has_driver(), 3 * LIMIT)
        if self.has_driver():
            self.driver.kill()
        self.driver.wait()
        self.doom(*self.nodes.workers())
        self.until("the killed are gone", lambda: not self._doomed, GONE_WITHIN + 5.0)
