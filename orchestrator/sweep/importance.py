"""How much each key of a space decides what comes of a trial, told by Optuna's evaluators."""

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.space import Space, Values
from orchestrator.sweep.trials import Trial

__all__ = ["EVALUATORS", "LEAST_TRIALS", "Importance", "importance_of"]

EVALUATORS = ("ped-anova", "fanova")
LEAST_TRIALS = 10
"""Below this many trials nothing is told. PED-ANOVA compares the best part of the trials with all
of them, and Optuna asks for at least 5 in that part."""

_LEAST_WITH = 20
"""Trials that have a key which others lack: of fewer, one or two are among the best, and where they
lie by chance counted as much as the key that decided (seen in stub sweeps of 24 and 30 trials)."""

_TOP_TRIALS = 5
_TOP_PART = 0.1  # of many trials, as in Watanabe et al. 2023 (arXiv 2304.10255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Shares of the keys, the largest first; their sum is 1.

    All trials are compared at one epoch, as a trial that was stopped early cannot be compared with
    a whole one. `left_out` are keys of which nothing can be told: with one value only, or chosen in
    too few of the trials (under fANOVA, not in all of them).
    """

    metric: str
    evaluator: str
    epoch: int
    num_trials: int
    shares: Mapping[str, float]
    left_out: tuple[str, ...] = ()


def importance_of(
    record: SweepRecord,
    *,
    metric: str | None = None,
    evaluator: str = "ped-anova",
    epoch: int | None = None,
) -> Importance:
    """Importance of the keys of a sweep.

    Args:
        record: Of the sweep.
        metric: One of the sweep's; None is the first.
        evaluator: `ped-anova` (Watanabe et al. 2023, arXiv 2304.10255: what the best trials have in
            common) or `fanova` (Hutter et al. 2014: parts of the variance; needs scikit-learn).
        epoch: Compare the best up to this one; None takes the last that half of the trials, and at
            least 10 of them, have reached.

    Raises:
        ConfigError: E1065, such a metric or evaluator is not there; E1110, Optuna or scikit-learn
            is not installed.
        NotFoundError: E5035, too few trials can be compared, or they do not differ.
    """
    definition = record.definition
    metric = metric or definition.metrics[0]
    _demand(definition, metric, evaluator)
    mode = definition.modes[definition.metrics.index(metric)]
    curves = [(trial.values, _curve(trial, metric)) for trial in _comparable(record)]
    at = _common_epoch(definition.name, [max(curve, default=0) for _, curve in curves], epoch)
    scored = [
        (values, _upto(curve, at, mode)) for values, curve in curves if max(curve, default=0) >= at
    ]
    if len({score for _, score in scored}) < 2:
        raise _untellable(f"all {len(scored)} trials have the same {metric} at epoch {at}")
    keys, left_out = _keys(definition.space, [values for values, _ in scored], evaluator)
    if not keys:
        raise _untellable("no key of the space has several values in all these trials")
    return Importance(
        metric=metric,
        evaluator=evaluator,
        epoch=at,
        num_trials=len(scored),
        shares=_shares(definition, mode, scored, evaluator, keys),
        left_out=left_out,
    )


def _demand(definition: Definition, metric: str, evaluator: str) -> None:
    """Refuse what cannot be told of any sweep like this one."""
    if metric not in definition.metrics:
        known = ", ".join(definition.metrics)
        raise ConfigError(f"{metric} is no metric of the sweep: {known}", code="E1065")
    if evaluator not in EVALUATORS:
        known = ", ".join(EVALUATORS)
        raise ConfigError(f"there is no evaluator {evaluator!r:.40}: {known}", code="E1065")
    if definition.scheduler == "pbt":
        raise ConfigError(
            f"{definition.name} trained a population, whose values change while it trains",
            code="E1065",
            why=("what came of a trial is not that of one set of values",),
        )
    needs = {"optuna": "sweep"} | ({"sklearn": "folds"} if evaluator == "fanova" else {})
    for library, extra in needs.items():
        if importlib.util.find_spec(library) is None:
            raise ConfigError(
                f"importance by {evaluator} needs {library}, which is not installed",
                code="E1110",
                fix=(f'pip install "orchestrator[{extra}]"',),
            )


def _comparable(record: SweepRecord) -> Sequence[Trial]:
    """Trials that broke no limit: the scores of the others are not sought."""
    return [t for t in record.started if not any(v > 0.0 for v in t.violations.values())]


def _curve(trial: Trial, metric: str) -> dict[int, float]:
    """The metric by epoch; empty where it was not reported, or was no number."""
    found = {row.epoch: row.metrics[metric] for row in trial.epochs if metric in row.metrics}
    return {epoch: value for epoch, value in found.items() if math.isfinite(value)}


def _upto(curve: Mapping[int, float], epoch: int, mode: str) -> float:
    """The best until an epoch."""
    best = max if mode == "max" else min
    return best(value for at, value in curve.items() if at <= epoch)


def _common_epoch(name: str, reached: Sequence[int], asked: int | None) -> int:
    """The epoch at which trials are compared.

    Raises:
        NotFoundError: E5035, too few have reached it.
    """
    ends = sorted((epoch for epoch in reached if epoch > 0), reverse=True)
    wanted = max(LEAST_TRIALS, math.ceil(len(ends) / 2))
    at = asked if asked is not None else (ends[wanted - 1] if len(ends) >= wanted else 1)
    num = sum(end >= at for end in ends)
    if num < LEAST_TRIALS:
        raise _untellable(
            f"importance needs {LEAST_TRIALS} trials to compare; {num} of {name} have reached"
            f" epoch {at}"
        )
    return at


def _keys(
    space: Space, every: Sequence[Values], evaluator: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of which something can be told, and the others."""
    told = []
    for key in space:
        values = [values[key] for values in every if key in values]
        is_often = evaluator == "ped-anova" and len(values) >= _LEAST_WITH
        if (is_often or len(values) == len(every)) and len(set(map(repr, values))) > 1:
            told.append(key)
    return tuple(told), tuple(key for key in space if key not in told)


def _shares(
    definition: Definition,
    mode: str,
    scored: Sequence[tuple[Values, float]],
    evaluator: str,
    keys: Sequence[str],
) -> dict[str, float]:
    from optuna.importance import (
        FanovaImportanceEvaluator,
        PedAnovaImportanceEvaluator,
        get_param_importances,
    )

    from orchestrator.sweep.study import study_of_scores

    study = study_of_scores(definition, mode, scored)
    part = max(_TOP_PART, _TOP_TRIALS / len(scored))
    chosen = (
        FanovaImportanceEvaluator(seed=definition.seed)
        if evaluator == "fanova"
        else PedAnovaImportanceEvaluator(target_quantile=part)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # it tells equal shares for no reason
            found = get_param_importances(study, evaluator=chosen, params=list(keys))
    except (UserWarning, RuntimeError) as error:
        raise _untellable(f"{evaluator} cannot tell: {error}") from error
    return {key: float(found[key]) for key in sorted(found, key=lambda key: (-found[key], key))}


def _untellable(why: str) -> NotFoundError:
    return NotFoundError(why, code="E5035", fix=("let the sweep go on: sweep.trials=40",))
