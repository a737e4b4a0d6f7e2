"""Limits around a searcher of Tune: what does not fit is never a trial, and told as a limit."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.sweep.ports import Judgement
from orchestrator.sweep.space import Values
from tests.sweep.stored import config

pytest.importorskip("optuna")

MEMORY = "resources.memory"


def judge(settings: Values) -> Judgement:
    return Judgement(violations={"memory": 3.0} if settings[MEMORY] == "64GiB" else {})


def nothing_fits(_: Values) -> Judgement:
    return Judgement(violations={"memory": 1.0})


def optuna_search() -> Any:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    space = {"lr0": tune.loguniform(1e-4, 1.0), MEMORY: tune.choice(["1GiB", "64GiB"])}
    return OptunaSearch(space, metric="score", mode="max", seed=1)


def test_only_what_fits_is_suggested_and_the_rest_is_a_broken_constraint() -> None:
    from orchestrator.sweep import Constrained

    inner = optuna_search()
    searcher = Constrained(inner, judge)
    for number in range(8):
        name = f"trial{number}"
        assert searcher.suggest(name)[MEMORY] == "1GiB"
        searcher.on_trial_result(name, {"score": 0.1, "training_iteration": 1})
        searcher.on_trial_complete(name, {"score": float(number), "training_iteration": 2})
    assert searcher.num_refused > 0
    assert searcher.num_suggested == 8 + searcher.num_refused
    trials = inner._ot_study.trials
    told = [trial for trial in trials if trial.values]
    assert [trial.values[0] for trial in told] == [float(number) for number in range(8)]
    refused = [trial for trial in trials if trial.params[MEMORY] == "64GiB"]
    assert len(refused) == searcher.num_refused
    assert all(trial.constraints == {"memory": 3.0} for trial in refused)
    assert all(trial.state.is_finished() and not trial.values for trial in refused)


def test_where_nothing_fits_the_search_is_over() -> None:
    from ray.tune.search import Searcher

    from orchestrator.sweep import Constrained

    searcher = Constrained(optuna_search(), nothing_fits, most=5)
    assert searcher.suggest("trial") == Searcher.FINISHED
    assert (searcher.num_suggested, searcher.num_refused) == (5, 5)


def test_a_trial_holds_no_card_and_next_to_no_cpu(tmp_path: Path) -> None:
    from orchestrator import sweep

    made = sweep.trainable(config(), home=tmp_path)
    (bundle,) = made.default_resource_request({}).bundles
    assert bundle == {"CPU": pytest.approx(0.001)}


def test_tune_can_keep_the_searcher_in_a_file(tmp_path: Path) -> None:
    from ray import cloudpickle

    from orchestrator import sweep

    searcher = sweep.constrained(optuna_search(), config(), home=tmp_path)
    again = cloudpickle.loads(cloudpickle.dumps(searcher))
    assert (again.metric, again.mode) == ("score", "max")
