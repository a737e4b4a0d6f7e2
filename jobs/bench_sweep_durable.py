"""Kills whoever conducts a sweep, again and again; trials, rungs and rows stay those of a calm run.

`python -m jobs.bench_sweep_durable [KILLS]` forks a process that conducts a sweep over a real
SQLite store, with runs that are formulas and outlive it, and sends it SIGKILL at random moments.
Searchers TPE, the Gaussian process (with a border) and random, schedulers ASHA, HyperBand, PBT and
none, reports in fixed turns.
"""

import argparse
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from orchestrator.store.sql import SqlStore
from orchestrator.sweep.conducting import searcher_of
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.events import Launched, SweepEvent, entry_of
from orchestrator.sweep.ports import Judgement, Look
from orchestrator.sweep.records import StoreRecorder, create_sweep, read_events
from orchestrator.sweep.space import Values, choice, loguniform
from orchestrator.sweep.stopping import Rung
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.types import CheckpointRef, RunId

__all__ = ["LastingRuns", "fits_of", "main", "need"]

_KINDS = (
    ("random", "asha"),
    ("tpe", "asha"),
    ("gp", "none"),
    ("random", "pbt"),
    ("tpe", "hyperband"),
)
_CAPACITY = 1 << 33
_NAME = "drill"


class LastingRuns:
    """Stub runs that outlive whoever asked for them: kept in a file, replaced as a whole.

    Args:
        path: The file.
        fresh: What it holds at first.
    """

    def __init__(self, path: Path, fresh: StubRuns) -> None:
        self._path = path
        if path.exists():
            self.inner: StubRuns = pickle.loads(path.read_bytes())  # noqa: S301 - our own file
        else:
            self.inner = fresh

    def judge(self, settings: Values) -> Judgement:
        """As StubRuns."""
        return self.inner.judge(settings)

    def submit(
        self, key: str, settings: Values, *, start: CheckpointRef | None, until: int | None
    ) -> RunId:
        """As StubRuns, and kept."""
        run_id = self.inner.submit(key, settings, start=start, until=until)
        self._keep()
        return run_id

    def look(self, runs: Mapping[RunId, int]) -> Mapping[RunId, Look]:
        """As StubRuns, and kept: time passes."""
        looks = self.inner.look(runs)
        self._keep()
        return looks

    def cancel(self, runs: Collection[RunId]) -> None:
        """As StubRuns, and kept."""
        self.inner.cancel(runs)
        self._keep()

    def revive(self, runs: Collection[RunId]) -> None:
        """As StubRuns, and kept."""
        self.inner.revive(runs)
        self._keep()

    def checkpoint(self, run_id: RunId) -> CheckpointRef | None:
        """As StubRuns."""
        return self.inner.checkpoint(run_id)

    def _keep(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(pickle.dumps(self.inner))
        new.replace(self._path)


def need(settings: Values) -> int:
    """Bytes that settings need: the largest batch is more than there is."""
    batch = settings.get("batch", 0)
    return (1 << 25) * (batch if isinstance(batch, int) else 0) + 1


def fits_of(runs: LastingRuns) -> Callable[[Values], bool]:
    """Whether values can run; a searcher that asks stays within that border."""
    return lambda values: not runs.judge(values).violations


def _definition(seed: int, search: str, scheduler: str) -> Definition:
    return Definition(
        name=_NAME,
        metrics=("score",),
        modes=("max",),
        space={"lr0": loguniform(1e-4, 1.0), "batch": choice([16, 32, 64, 128, 256])},
        config="",
        folder="",
        project="stub",
        trials={"asha": 40, "hyperband": 40, "pbt": 12, "none": 24}[scheduler],
        search=search,
        scheduler=scheduler,
        order="fixed",
        max_concurrent=4,
        seed=seed,
        epochs=9,
        interval=3,
    )


def _conduct(folder: Path, definition: Definition, pace: float) -> Conductor:
    """Conduct from what is recorded to the end."""
    with SqlStore(str(folder / "orchestrator.db")) as store:
        recorder = StoreRecorder(store, _NAME)
        stubs = StubRuns(pace=pace, seed=definition.seed, capacity_bytes=_CAPACITY, need=need)
        runs = LastingRuns(folder / "runs", stubs)
        searcher = searcher_of(definition, fits_of(runs))
        conductor = Conductor(definition, searcher, runs, recorder, time.time)
        conductor.replay(event for _, event in read_events(store, _NAME))
        while not conductor.is_done:
            conductor.advance()
        return conductor


def _created(folder: Path, definition: Definition) -> None:
    with SqlStore(str(folder / "orchestrator.db")) as store:
        create_sweep(store, definition, 0.0)


def _recorded(folder: Path) -> list[tuple[str, Any]]:
    """What the store holds, in order, without times and the names that runs were given."""
    with SqlStore(str(folder / "orchestrator.db")) as store:
        return [_bare(event) for _, event in read_events(store, _NAME)]


def _bare(event: SweepEvent) -> tuple[str, Any]:
    entry = entry_of(event)
    body = json.loads(entry.body)
    del body["at"]
    if isinstance(event, Launched):
        del body["run_id"]
    if body.get("start"):
        body["start"] = body["start"]["epoch"]
    return entry.key, body


def _killed_until_done(
    folder: Path, definition: Definition, chance: random.Random, most_seconds: float
) -> int:
    """Conduct in forked processes, each killed at a random moment; returns the kills."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            _conduct(folder, definition, pace=0.5)
            os._exit(0)
        deadline = time.monotonic() + chance.uniform(0.01, most_seconds)
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0, "who conducts the sweep failed by itself"
                return kills
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return kills  # it was done in the last moment
        kills += 1


def _rungs(folder: Path, definition: Definition) -> tuple[tuple[Rung, ...], ...]:
    return _conduct(folder, definition, pace=1.0).rungs  # nothing is left to do: a replay


def main(num_kills: int) -> int:
    """Print the figures as JSON; 1 where a sweep differs from the undisturbed one."""
    chance = random.Random(2026)
    kills, sweeps, differing, by_kind = 0, 0, [], dict.fromkeys(map("/".join, _KINDS), 0)
    began = time.monotonic()
    while kills < num_kills:
        search, scheduler = _KINDS[sweeps % len(_KINDS)]
        definition = _definition(sweeps, search, scheduler)
        with tempfile.TemporaryDirectory() as name:
            calm, rough = Path(name) / "calm", Path(name) / "rough"
            for folder in (calm, rough):
                folder.mkdir()
                _created(folder, definition)
            undisturbed = _conduct(calm, definition, pace=1.0)
            own = _killed_until_done(rough, definition, chance, most_seconds=1.5)
            kills += own
            by_kind[f"{search}/{scheduler}"] += own
            same = _recorded(calm) == _recorded(rough)
            if not same or undisturbed.rungs != _rungs(rough, definition):
                differing.append(sweeps)
        sweeps += 1
    told = {
        "kills": kills,
        "kills_by_search_and_scheduler": by_kind,
        "sweeps": sweeps,
        "sweeps_that_differ": differing,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(told, indent=1))
    return 1 if differing else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=100)
    sys.exit(main(parser.parse_args().kills))
