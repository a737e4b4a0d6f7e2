"""Runs whose training and memory are formulas, kept in this process; for tests and benches."""

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.sweep.ports import Judgement, Look
from orchestrator.sweep.space import Values
from orchestrator.types import AttemptId, CheckpointRef, Progress, RunId, RunState, Scalar

__all__ = ["StubRuns", "nothing", "quadratic"]


def quadratic(settings: Values, epoch: int) -> dict[str, float]:
    """A score that grows with the epochs, highest at lr0 0.01 and batch 64."""
    rate, batch = _number(settings.get("lr0"), 0.01), _number(settings.get("batch"), 64)
    off = math.log10(rate / 0.01) ** 2 + 0.05 * math.log2(batch / 64) ** 2
    return {"score": (1.0 - 0.5 / epoch) / (1.0 + off)}


def _number(value: Scalar, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def nothing(_: Values) -> int:
    """The need of what fits everywhere."""
    return 0


@dataclass(slots=True)
class _Run:
    settings: Values
    epoch: int
    end: int
    state: RunState = RunState.RUNNING
    rows: list[Progress] = field(default_factory=list)
    looks_to_leave: int = 0


@dataclass(slots=True)
class StubRuns:
    """Implements Runs: each look lets every run complete an epoch, or by chance none.

    Attributes:
        epochs: Of a whole training.
        capacity_bytes: Of the largest card.
        need: Bytes that settings need at least.
        metrics: What settings report after an epoch.
        pace: Chance that a run completes an epoch between two looks.
        seed: Decides who is how fast.
        looks_to_leave: How many looks a run takes to leave, once it is cancelled.
        launches: Settings of every run, in order.
    """

    epochs: int = 9
    capacity_bytes: int = 1 << 33
    need: Callable[[Values], int] = nothing
    metrics: Callable[[Values, int], dict[str, float]] = quadratic
    pace: float = 1.0
    seed: int = 0
    looks_to_leave: int = 0
    launches: list[Values] = field(default_factory=list)
    _runs: dict[RunId, _Run] = field(default_factory=dict)
    _keys: dict[str, RunId] = field(default_factory=dict)
    _num_looks: int = 0

    def judge(self, settings: Values) -> Judgement:
        """Whether the need is within the capacity."""
        need = self.need(settings)
        over = need / self.capacity_bytes - 1.0
        return Judgement(
            violations={"memory": over} if over > 0 else {},
            why=f"needs {need} bytes of {self.capacity_bytes}" if over > 0 else "",
            need_bytes=need,
        )

    def submit(
        self, key: str, settings: Values, *, start: CheckpointRef | None, until: int | None
    ) -> RunId:
        """Begin a run; the same key is the same run."""
        if key not in self._keys:
            run_id = RunId(f"run-{len(self._keys) + 1}")
            self._keys[key] = run_id
            self.launches.append(settings)
            self._runs[run_id] = _Run(
                settings=settings, epoch=start.epoch if start else 0, end=until or self.epochs
            )
        return self._keys[key]

    def look(self, runs: Mapping[RunId, int]) -> Mapping[RunId, Look]:
        """Let time pass, then tell how runs stand."""
        self._num_looks += 1
        for run_id, run in self._runs.items():
            chance = random.Random(f"{self.seed}/{self._num_looks}/{run_id}").random()
            if run.state is RunState.RUNNING and chance < self.pace:
                self._train(run)
            elif run.state is RunState.STOPPING:
                self._leave(run)
        return {
            run_id: Look(
                state=self._runs[run_id].state,
                epochs=[row for row in self._runs[run_id].rows if row.epoch > known],
            )
            for run_id, known in runs.items()
        }

    def cancel(self, runs: Collection[RunId]) -> None:
        """End runs at once."""
        for run_id in runs:
            run = self._runs[run_id]
            if not run.state.is_terminal and run.state is not RunState.STOPPING:
                run.state, run.looks_to_leave = RunState.STOPPING, self.looks_to_leave
                self._leave(run)

    @property
    def num_on_cards(self) -> int:
        """Runs that train or have yet to leave."""
        return sum(not run.state.is_terminal for run in self._runs.values())

    def revive(self, runs: Collection[RunId]) -> None:
        """Let cancelled runs go on."""
        for run_id in runs:
            if self._runs[run_id].state in (RunState.CANCELLED, RunState.STOPPING):
                self._runs[run_id].state = RunState.RUNNING

    def checkpoint(self, run_id: RunId) -> CheckpointRef | None:
        """One after every epoch."""
        run = self._runs[run_id]
        attempt = AttemptId(run_id=run_id, number=1)
        return CheckpointRef(
            attempt=attempt, epoch=run.epoch, path=f"/{run_id}", sha256="", num_bytes=0
        )

    def _leave(self, run: _Run) -> None:
        run.looks_to_leave -= 1
        if run.looks_to_leave < 0:
            run.state = RunState.CANCELLED

    def _train(self, run: _Run) -> None:
        run.epoch += 1
        run.rows.append(
            Progress(
                epoch=run.epoch,
                epochs=self.epochs,
                metrics=self.metrics(run.settings, run.epoch),
                seconds=1.0,
                num_images=64,
            )
        )
        if run.epoch >= run.end:
            run.state = RunState.SUCCEEDED
