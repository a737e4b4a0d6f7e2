"""Importance: the key that decides is told; what cannot be told is refused with its reason."""

import math

import pytest

from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.sweep.block import read_space
from orchestrator.sweep.importance import importance_of
from orchestrator.sweep.space import Values
from orchestrator.sweep.stub_runs import StubRuns
from tests.sweep.stored import make_record

pytest.importorskip("optuna")


def by_rate(settings: Values, epoch: int) -> dict[str, float]:
    rate = settings["lr0"]
    assert isinstance(rate, float)
    return {"score": -abs(math.log10(rate) + 2.0) + epoch / 100}


@pytest.mark.parametrize("evaluator", ["ped-anova", "fanova"])
def test_the_key_that_decides_has_the_largest_share(evaluator: str) -> None:
    if evaluator == "fanova":
        pytest.importorskip("sklearn")
    record = make_record(StubRuns(metrics=by_rate), trials=60)
    told = importance_of(record, evaluator=evaluator)
    assert next(iter(told.shares)) == "lr0"
    assert sum(told.shares.values()) == pytest.approx(1.0)
    assert (told.num_trials, told.epoch, told.metric) == (60, 9, "score")
    assert told.left_out == (("momentum",) if evaluator == "fanova" else ())
    assert importance_of(record, evaluator=evaluator) == told


def test_trials_that_were_stopped_early_are_compared_at_an_epoch_of_all() -> None:
    record = make_record(StubRuns(metrics=by_rate), trials=30, scheduler="asha")
    told = importance_of(record)
    assert told.left_out == ("momentum",)  # too few trials have one
    assert told.num_trials >= 15
    assert told.epoch < 9
    assert next(iter(told.shares)) == "lr0"
    every = importance_of(record, epoch=1)
    assert (every.num_trials, every.epoch) == (30, 1)


def test_a_loss_is_better_the_lower_it_is() -> None:
    def loss(settings: Values, epoch: int) -> dict[str, float]:
        return {"loss": -by_rate(settings, epoch)["score"]}

    record = make_record(StubRuns(metrics=loss), trials=40, metrics=("loss",), modes=("min",))
    assert next(iter(importance_of(record).shares)) == "lr0"


def test_too_few_trials_are_refused_with_their_number() -> None:
    record = make_record(trials=9)
    with pytest.raises(NotFoundError, match="needs 10 trials to compare; 9 of night") as caught:
        importance_of(record)
    assert caught.value.code == "E5035"


def test_trials_that_do_not_differ_are_refused() -> None:
    record = make_record(StubRuns(metrics=lambda *_: {"score": 0.5}))
    with pytest.raises(NotFoundError, match="the same score"):
        importance_of(record)


def test_a_best_part_that_is_everything_is_refused() -> None:
    def mostly(settings: Values, epoch: int) -> dict[str, float]:
        return {"score": -1.0 if settings == first[0] else 1.0}

    runs = StubRuns(metrics=mostly)
    first = runs.launches
    record = make_record(runs, trials=12)
    told = importance_of(record)  # 11 of 12 tie for the best
    assert told.num_trials == 12


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"metric": "map"}, "map is no metric"), ({"evaluator": "shap"}, "no evaluator 'shap'")],
)
def test_what_is_not_there_is_refused(asked: dict[str, str], said: str) -> None:
    record = make_record(trials=3)
    with pytest.raises(ConfigError, match=said):
        importance_of(record, **asked)  # type: ignore[arg-type]


def test_of_a_population_nothing_is_told() -> None:
    space = {"batch": [16, 32], "lr0": {"loguniform": [1e-4, 1.0]}}
    record = make_record(trials=12, scheduler="pbt", space=read_space(space), max_concurrent=12)
    with pytest.raises(ConfigError, match="population"):
        importance_of(record)
