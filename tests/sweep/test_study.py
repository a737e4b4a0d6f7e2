"""A sweep as a study of Optuna: every trial with its state, epochs and broken limits."""

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError, ConflictError
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.space import Values
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import Trial, TrialState
from tests.sweep.stored import make_record, studies

optuna = pytest.importorskip("optuna")

TWO: dict[str, Any] = {"metrics": ("score", "val/loss"), "modes": ("max", "min")}
STATES = {
    TrialState.REFUSED: "PRUNED",
    TrialState.INFEASIBLE: "PRUNED",
    TrialState.STOPPED: "PRUNED",
    TrialState.FINISHED: "COMPLETE",
    TrialState.FAILED: "FAIL",
}


def need(settings: Values) -> int:
    batch = settings["batch"]
    assert isinstance(batch, int)
    return batch << 27


def both(settings: Values, epoch: int) -> dict[str, float]:
    rate, batch = settings["lr0"], settings["batch"]
    assert isinstance(rate, float)
    assert isinstance(batch, int)
    return {"score": -abs(math.log10(rate) + 2.0) * batch, "val/loss": 1.0 / (batch * epoch)}


def exported(record: SweepRecord, folder: Path) -> Any:
    from orchestrator.sweep.study import export_study

    url = f"sqlite:///{folder / 'study.db'}"
    assert export_study(record, url) == len(record.trials)
    return optuna.load_study(study_name="night", storage=studies(url))


def test_a_study_has_every_trial_as_it_was_recorded(tmp_path: Path) -> None:
    runs = StubRuns(need=need, capacity_bytes=64 << 27)
    record = make_record(runs, scheduler="asha", search="tpe")
    study = exported(record, tmp_path)
    assert [d.name for d in study.directions] == ["MAXIMIZE"]
    assert study.metric_names == ["score"]
    seen: set[str] = set()
    for trial, made in zip(record.trials, study.trials, strict=True):
        same(trial, made)
        assert made.value == (record.metrics(trial)[0] if record.metrics(trial) else None)
        seen.add(trial.state.value)
    assert seen == {"REFUSED", "STOPPED", "FINISHED"}
    assert record.best is not None
    best = max((t for t in study.trials if t.value is not None), key=lambda t: t.value)
    assert best.user_attrs["trial"] == record.best.number
    refused = next(t for t in record.trials if t.state is TrialState.REFUSED)
    assert study.trials[refused.number - 1].constraints == {"memory": 1.0}  # 128 of 64


def same(trial: Trial, made: Any) -> None:
    assert made.number == trial.number - 1
    assert made.state.name == STATES[trial.state]
    assert made.params == dict(trial.values)
    epochs = {row.epoch: row.metrics["score"] for row in trial.epochs}
    assert made.intermediate_values == epochs
    broken = {k: v for k, v in made.constraints.items() if v > 0.0}
    assert broken == dict(trial.violations)
    assert made.user_attrs["state"] == trial.state.value
    if trial.ended_at is not None:
        span = made.duration.total_seconds()
        assert span == pytest.approx(trial.ended_at - trial.at)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_of_several_metrics_the_front_is_that_of_the_sweep(tmp_path: Path, search: str) -> None:
    record = make_record(search=search, runs=StubRuns(metrics=both), **TWO, scheduler="none")
    study = exported(record, tmp_path)
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    front = {trial.user_attrs["trial"] for trial in study.best_trials}
    assert front == {trial.number for trial in record.front}
    assert 1 < len(front) < len(record.trials)


def test_a_sweep_that_goes_on_has_running_trials_and_is_exported_again(tmp_path: Path) -> None:
    from orchestrator.client.access import Client
    from orchestrator.sweep import asking
    from orchestrator.sweep.records import read_sweep
    from tests.sweep.stored import conduct_stored, config

    client, runs = Client(tmp_path), StubRuns()
    asking.create(client, config(), name="night", search="random", trials=6, max_concurrent=2)
    conduct_stored(client, "night", runs, most=6)  # the first look finds none yet
    early = exported(read_sweep(client, "night"), tmp_path)
    assert [t.state.name for t in early.trials] == ["RUNNING", "RUNNING"]
    assert len(early.trials[0].intermediate_values) == 5
    conduct_stored(client, "night", runs)
    late = exported(read_sweep(client, "night"), tmp_path)
    assert len(late.trials) == 6
    assert all(t.state.is_finished() for t in late.trials)


def test_a_study_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    record = make_record(trials=2)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="night", storage=studies(url))
    with pytest.raises(ConflictError) as caught:
        exported(record, tmp_path)
    assert caught.value.code == "E5034"


@pytest.mark.parametrize("url", ["study.db", "sqlite:////no/such/folder/study.db"])
def test_a_database_that_is_not_there_is_said(tmp_path: Path, url: str) -> None:
    from orchestrator.sweep.study import export_study

    record = make_record(trials=2)
    with pytest.raises(ConfigError) as caught:
        export_study(record, url)
    assert caught.value.code == "E1064"
    assert "sqlite:///" in caught.value.fix[0]
