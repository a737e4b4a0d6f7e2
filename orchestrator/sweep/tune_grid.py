"""A sweep as Ray Tune's own ResultGrid, with the files that Tune would have written."""

import json
import time
from pathlib import Path
from typing import Any

from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune import Checkpoint, ExperimentAnalysis, ResultGrid
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.client.access import Client
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.importance import Importance, importance_of
from orchestrator.sweep.plots import draw_sweep
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.trials import Trial, TrialState
from orchestrator.types import CheckpointRef, RunId

__all__ = ["ResultGrid", "SweepResults", "result_grid"]

_RESULT_FILE = "result.json"  # the names of Tune's own files
_PARAMS_FILE = "params.json"
_ERROR_FILE = "error.txt"


class SweepResults(ResultGrid):  # type: ignore[misc]  # Ray has no types
    """Ray Tune's own result of a sweep, which tells what the sweep knows besides.

    Args:
        analysis: What Tune's result is made of.
        sweep: The record, with refused suggestions too.
    """

    def __init__(self, analysis: ExperimentAnalysis, sweep: SweepRecord) -> None:
        super().__init__(analysis)
        self.sweep = sweep

    def importance(self, metric: str | None = None, *, evaluator: str = "ped-anova") -> Importance:
        """How much each key of the space decides; raises as `importance_of`."""
        return importance_of(self.sweep, metric=metric, evaluator=evaluator)

    def front(self) -> list[Any]:
        """The results of the trials that no other one beats in every metric, by number."""
        places = {trial.number: at for at, trial in enumerate(self.sweep.started)}
        return [self[places[trial.number]] for trial in self.sweep.front]

    def plots(self, folder: Path | str, *, kind: str = "png") -> tuple[Path, ...]:
        """Draw history, parallel coordinates, importance and front, as far as there is something.

        Returns:
            The files; raises as `draw_sweep`.
        """
        return draw_sweep(self.sweep, Path(folder), kind=kind).written

    def study(self, storage: str | None = None) -> Any:
        """The sweep as an Optuna study, in memory or in a database; raises as `export_study`."""
        from orchestrator.sweep.study import export_study, load_study, study_of

        if storage is None:
            return study_of(self.sweep)
        export_study(self.sweep, storage)
        return load_study(self.sweep.definition.name, storage)


def result_grid(client: Client, record: SweepRecord) -> SweepResults:
    """A sweep as Ray Tune's own result, for notebooks that know it.

    Its files are written below the folder of the store, where `tune.ExperimentAnalysis(path)` reads
    them too. Trials that were refused are not in it: nothing of them ran. The checkpoint of a
    trial is the folder with the best one of its run.
    """
    folder = client.home.resolve() / "sweeps" / record.definition.name
    folder.mkdir(parents=True, exist_ok=True)
    storage = StorageContext(
        storage_path=str(folder.parent), experiment_dir_name=record.definition.name
    )
    with client.store() as store:
        trials = [_tune_trial(trial, storage, store) for trial in record.started]
    state = {
        "trial_data": [trial.get_json_state() for trial in trials],
        "runner_data": {},
        "stats": {"start_time": record.at},
    }
    for old in folder.glob("experiment_state-*.json"):
        old.unlink()
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.gmtime(record.at))
    (folder / f"experiment_state-{stamp}.json").write_text(json.dumps(state))
    definition = record.definition
    analysis = ExperimentAnalysis(
        str(folder),
        trials=trials,
        default_metric=definition.metrics[0],
        default_mode=definition.modes[0],
    )
    return SweepResults(analysis, record)


def _tune_trial(trial: Trial, storage: StorageContext, store: SqlStore) -> TuneTrial:
    made = TuneTrial(
        "orchestrator",
        config=dict(trial.settings),
        trial_id=f"{trial.number:05d}",
        storage=storage,
        evaluated_params=dict(trial.values),
        experiment_tag=str(trial.number),
        stub=True,
    )
    name = f"trial_{trial.number:05d}"
    made.relative_logdir = name
    made.storage.trial_dir_name = name
    folder = Path(made.path)
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(trial, made.trial_id)
    for row in rows:
        made.update_last_result(row)
    (folder / _RESULT_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / _PARAMS_FILE).write_text(json.dumps(dict(trial.settings)))
    failed = trial.state in (TrialState.FAILED, TrialState.INFEASIBLE)
    if failed:
        (folder / _ERROR_FILE).write_text(trial.why or trial.state.value)
        made.run_metadata.error_filename = _ERROR_FILE
    made.set_status(TuneTrial.ERROR if failed else _status(trial))
    ref = _best_checkpoint(store, trial.run_id)
    if ref is not None and rows:
        kept = Checkpoint.from_directory(str(Path(ref.path).parent))
        made.run_metadata.checkpoint_manager.register_checkpoint(
            _TrainingResult(checkpoint=kept, metrics=rows[-1])
        )
    return made


def _rows(trial: Trial, trial_id: str) -> list[dict[str, Any]]:
    """What Tune keeps of every epoch."""
    total, rows = 0.0, []
    for epoch in trial.epochs:
        total += epoch.seconds
        rows.append(
            {
                **epoch.metrics,
                "training_iteration": epoch.epoch,
                "time_this_iter_s": epoch.seconds,
                "time_total_s": total,
                "trial_id": trial_id,
                "run_id": trial.run_id,
                "done": epoch is trial.last and trial.state.has_ended,
                "config": dict(trial.settings),
            }
        )
    return rows


def _status(trial: Trial) -> str:
    return str(TuneTrial.TERMINATED if trial.state.has_ended else TuneTrial.PENDING)


def _best_checkpoint(store: SqlStore, run_id: RunId | None) -> CheckpointRef | None:
    refs = [ref for ref in store.checkpoints(run_id) if Path(ref.path).exists()] if run_id else []
    return next((ref for ref in refs if ref.is_best), refs[0] if refs else None)
