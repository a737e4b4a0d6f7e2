"""For people's own Tuner: a run as a Trainable that holds nothing, limits around any Searcher."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event as Pause
from typing import Any, TypeAlias

from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from orchestrator.client.access import Client
from orchestrator.client.plans import Planner
from orchestrator.errors import TrainingError
from orchestrator.store.codec import from_plain, to_plain
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.ports import Judgement
from orchestrator.sweep.reading import load_sweep
from orchestrator.sweep.space import Values
from orchestrator.sweep.store_runs import StoreRuns, trial_planner
from orchestrator.types import Cause, CheckpointRef, RunId, RunState

__all__ = ["Constrained", "Judge", "RunTrainable", "constrained", "trainable"]

_POLL = 0.1
_LEAST_CPU = 0.001  # Tune refuses a trial that holds nothing at all


class RunTrainable(tune.Trainable):  # type: ignore[misc]  # Ray has no types
    """A trial of Tune that holds nothing: its run waits and trains in the queue of a store.

    Made by `trainable`. A step is an epoch; when Tune stops the trial, its run is ended.
    """

    _epoch: int
    _run_id: RunId | None
    _start: CheckpointRef | None
    _values: dict[str, Any]

    def setup(self, config: dict[str, Any], definition: str = "", home: str | None = None) -> None:
        """Ask for the run of a trial."""
        from orchestrator.sweep.definition import read_definition

        self._definition = read_definition(definition)
        self._client = Client(home)
        self._store = SqlStore(str(self._client.path))
        client = self._client
        self._runs = StoreRuns(
            self._definition,
            client,
            self._store,
            client.nodes(),
            lambda: trial_planner(client, _unheard),
        )
        self._begin(config, None)

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch of the run.

        Raises:
            TrainingError: E2040, the run failed.
        """
        pause = Pause()
        while True:
            run_id = self._asked()
            look = self._runs.look({run_id: self._epoch})[run_id]
            if look.epochs:
                row = look.epochs[0]
                self._epoch = row.epoch
                is_last = look.state is RunState.SUCCEEDED and len(look.epochs) == 1
                return {**row.metrics, "run_id": run_id, "epoch": row.epoch, "done": is_last}
            if look.state is RunState.SUCCEEDED:
                return {"run_id": run_id, "epoch": self._epoch, "done": True}
            if look.state.is_terminal:
                raise TrainingError(
                    f"the run {run_id} has {look.state}: {look.why}",
                    cause=Cause.USER_ERROR,
                    code="E2040",
                    fix=(f"orc show {run_id}",),
                )
            pause.wait(_POLL)

    def cleanup(self) -> None:
        """End the run, where it has not ended."""
        if self._run_id is not None:
            self._runs.cancel([self._run_id])
        self._store.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over another trial in this process (`reuse_actors`)."""
        if self._run_id is not None:
            self._runs.cancel([self._run_id])
        self._begin(new_config, None)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Name the newest checkpoint of the run; it stays where it is."""
        ref = self._runs.checkpoint(self._asked())
        return {"ref": None if ref is None else to_plain(ref)}

    def load_checkpoint(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Go on from the checkpoint of another trial's run, under this trial's settings."""
        if checkpoint and checkpoint.get("ref"):
            self._begin(self._values, from_plain(CheckpointRef, checkpoint["ref"]))

    def _begin(self, values: dict[str, Any], start: CheckpointRef | None) -> None:
        self._values, self._start = dict(values), start
        self._run_id = None  # asked for with the first step: a restore may come
        self._epoch = start.epoch if start else 0

    def _asked(self) -> RunId:
        if self._run_id is None:
            key = f"tune {self._logdir} {self.trial_id} {self._epoch} {time.time_ns()}"
            self._run_id = self._runs.submit(
                key[-180:], self._values, start=self._start, until=None
            )
        return self._run_id


def trainable(config: Path | str | Mapping[str, Any], *, home: Path | str | None = None) -> Any:
    """What `tune.Tuner` takes: trials that submit runs of this config's project to the queue.

    The trials hold no card, and of a CPU next to nothing. They read the store, so they have to run
    on its machine, and a driver (`orc serve`) has to run. `param_space` has keys of the config.

    Args:
        config: A config with one project.
        home: The folder of the store.
    """
    folder = str(Client(home).home.resolve())
    text = load_sweep(config).text()
    with_definition = tune.with_parameters(RunTrainable, definition=text, home=folder)
    return tune.with_resources(with_definition, {"CPU": _LEAST_CPU})


Judge: TypeAlias = Callable[[Values], Judgement]
"""Says of settings whether they can run, and by how much not."""


def constrained(
    searcher: Searcher, config: Path | str | Mapping[str, Any], *, home: Path | str | None = None
) -> "Constrained":
    """A searcher of Tune that suggests what this config's project can run on the driver's cards.

    Args:
        searcher: Any of Tune's own; its metric and mode are kept.
        config: A config with one project.
        home: The folder of the store, whose driver knows the cards.
    """
    return Constrained(searcher, _Planned(load_sweep(config), Client(home)))


class _Planned:
    """Judges by planning on the cards of a store's driver. Tune pickles it: traces stay behind."""

    def __init__(self, definition: Definition, client: Client) -> None:
        self._definition, self._client = definition, client
        self._planner: Planner | None = None

    def __call__(self, settings: Values) -> Judgement:
        client = self._client
        with client.store() as store:
            runs = StoreRuns(self._definition, client, store, client.nodes(), self._its_planner)
            return runs.judge(settings)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_planner": None}

    def _its_planner(self) -> Planner:
        if self._planner is None:
            self._planner = trial_planner(self._client, _unheard)
        return self._planner


class Constrained(Searcher):  # type: ignore[misc]  # Ray has no types
    """Around any searcher of Tune: what fits no card never becomes a trial.

    What is refused is told to the searcher as a suggestion without a result. Optuna's is told of a
    broken constraint besides, so that its model learns where the border is.

    Args:
        inner: The searcher.
        judge: Says what fits.
        most: Suggestions in a row that may be refused before the search is over.
    """

    def __init__(self, inner: Searcher, judge: "Judge", most: int = 200) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        self.num_suggested = 0
        self.num_refused = 0
        self._inner, self._judge, self._most = inner, judge, most
        self._names: dict[str, str] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Hand on what Tune says about the search."""
        self._metric, self._mode = metric, mode
        return bool(self._inner.set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> Any:
        """The next suggestion that fits."""
        for number in range(self._most):
            name = trial_id if number == 0 else f"{trial_id}_{number}"
            values = self._inner.suggest(name)
            if values is None or values == Searcher.FINISHED:
                return values
            self.num_suggested += 1
            found = self._judge(values)
            if found.fits:
                self._names[trial_id] = name
                return values
            self.num_refused += 1
            if isinstance(self._inner, OptunaSearch):
                for limit, excess in found.violations.items():
                    self._inner._ot_trials[name].set_constraint(limit, excess)
            self._inner.on_trial_complete(name, result=None, error=False)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on an epoch."""
        self._inner.on_trial_result(self._names.get(trial_id, trial_id), result)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - Tune's own signature
    ) -> None:
        """Hand on an end."""
        self._inner.on_trial_complete(self._names.get(trial_id, trial_id), result, error)

    def save(self, checkpoint_path: str) -> None:
        """Keep the searcher's state."""
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Take the searcher's state back."""
        self._inner.restore(checkpoint_path)


def _unheard(_: str) -> None:
    pass
