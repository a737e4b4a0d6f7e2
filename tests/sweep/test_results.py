"""What Python gets of a sweep: Ray Tune's own result, which tells importance and front besides."""

from pathlib import Path

import pytest

from orchestrator.sweep import results
from orchestrator.sweep.stub_runs import StubRuns
from tests.sweep.stored import make_sweep
from tests.sweep.test_sweep_cli import SPACE, both, need


def test_results_are_tunes_own_and_tell_more(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from ray.tune import ResultGrid

    runs = StubRuns(epochs=2, need=need, metrics=both)
    _, record = make_sweep(tmp_path, runs, trials=10, space=SPACE, metric=["score", "loss"])
    grid = results("night", home=tmp_path)
    assert isinstance(grid, ResultGrid)
    assert len(grid) == 10 < len(record.trials)
    assert grid.sweep == record
    assert record.best is not None
    assert grid.get_best_result().config == dict(record.best.settings)
    front = [result.config for result in grid.front()]
    assert front == [dict(trial.settings) for trial in record.front]
    assert next(iter(grid.importance("loss").shares)) == "lr0"
    study = grid.study(f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == len(grid.study().trials) == len(record.trials)
    pytest.importorskip("matplotlib")
    assert len(grid.plots(tmp_path / "plots")) == 4
