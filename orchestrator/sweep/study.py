"""A sweep as a study of Optuna, in memory or in a database that optuna-dashboard opens."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from orchestrator.errors import ConfigError, ConflictError
from orchestrator.sweep import trials
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.space import Dimension, Kind, Values
from orchestrator.types import Seconds

__all__ = ["distribution_of", "export_study", "load_study", "study_of", "study_of_scores"]

_MADE_OF = "orchestrator.substance"  # says of which sweep a study was made
_STATES = {
    trials.TrialState.REFUSED: TrialState.PRUNED,  # with the limit that it breaks
    trials.TrialState.INFEASIBLE: TrialState.PRUNED,
    trials.TrialState.STOPPED: TrialState.PRUNED,
    trials.TrialState.FINISHED: TrialState.COMPLETE,
    trials.TrialState.FAILED: TrialState.FAIL,
}


def study_of(record: SweepRecord, storage: BaseStorage | None = None) -> optuna.Study:
    """A sweep as a study: every suggestion is a trial, in order, with what was reported.

    Early-stopped trials are PRUNED with their last epoch's intermediate value (of several metrics
    they are COMPLETE, as a pruned trial of Optuna has no values), refused and infeasible ones are
    PRUNED with the constraint that they break, and trials that go on are RUNNING. Values have the
    metrics' own signs. A member of a population has the values that it ended with.

    Args:
        record: Of the sweep.
        storage: Optuna's; None keeps the study in memory.
    """
    definition = record.definition
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(
        storage=storage, study_name=definition.name, directions=_directions(definition.modes)
    )
    with warnings.catch_warnings():  # names of metrics are experimental in Optuna 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names(list(definition.metrics))
    made.set_user_attr(_MADE_OF, definition.substance)
    limits = sorted({limit for trial in record.trials for limit in trial.violations})
    for trial in record.trials:
        made.add_trial(_frozen(record, trial, limits))
    return made


def study_of_scores(
    definition: Definition, mode: str, scored: Sequence[tuple[Values, float]]
) -> optuna.Study:
    """A study in memory of whole trials with one value each.

    Args:
        definition: Whose space the values are of.
        mode: `max` or `min`.
        scored: The values of trials, and what came of them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(directions=_directions((mode,)))
    for values, score in scored:
        found = _distributions(definition.space, values)
        made.add_trial(create_trial(params=dict(values), distributions=found, value=score))
    return made


def export_study(record: SweepRecord, url: str) -> int:
    """Write a sweep as a study of its name; an earlier one of the same sweep is replaced.

    Returns:
        The number of trials written.

    Raises:
        ConfigError: E1064, there is no database at the URL, or it cannot be reached.
        ConflictError: E5034, it has another study of this name.
    """
    name = record.definition.name
    try:
        storage = _opened(url)
        if name in optuna.get_all_study_names(storage):
            _demand_own(record, storage, url)
            optuna.delete_study(study_name=name, storage=storage)
        try:
            study = study_of(record, storage)
        except BaseException:
            if name in optuna.get_all_study_names(storage):  # no half of a study stays behind
                optuna.delete_study(study_name=name, storage=storage)
            raise
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"--study {url}: there is no database that can be written",
            code="E1064",
            why=(str(error).splitlines()[0],),
            fix=("--study sqlite:///study.db",),
        ) from error
    return len(study.get_trials(deepcopy=False))


def load_study(name: str, url: str) -> optuna.Study:
    """A study that was exported."""
    return optuna.load_study(study_name=name, storage=_opened(url))


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """A dimension in Optuna's words."""
    if dimension.kind is Kind.CHOICE:
        return CategoricalDistribution(dimension.options)
    if dimension.kind is Kind.INTEGER:
        return IntDistribution(int(dimension.low), int(dimension.high), step=dimension.step)
    is_log = dimension.kind is Kind.LOGUNIFORM
    return FloatDistribution(dimension.low, dimension.high, log=is_log)


def _opened(url: str) -> BaseStorage:
    """A database of studies that keeps no connection between two questions."""
    return RDBStorage(url, engine_kwargs={"poolclass": NullPool})


def _demand_own(record: SweepRecord, storage: BaseStorage, url: str) -> None:
    name = record.definition.name
    found = optuna.load_study(study_name=name, storage=storage)
    if found.user_attrs.get(_MADE_OF) != record.definition.substance:
        raise ConflictError(
            f"{url} has another study {name}, which was not made of this sweep",
            code="E5034",
            fix=("name another file",),
        )


def _directions(modes: Sequence[str]) -> list[str]:
    return ["maximize" if mode == "max" else "minimize" for mode in modes]


def _distributions(space: Mapping[str, Dimension], values: Values) -> dict[str, BaseDistribution]:
    return {key: distribution_of(space[key]) for key in values}


def _frozen(record: SweepRecord, trial: trials.Trial, limits: Sequence[str]) -> FrozenTrial:
    definition = record.definition
    metrics = record.metrics(trial)
    state = _STATES.get(trial.state, TrialState.RUNNING)
    has_several = len(definition.metrics) > 1
    if state is TrialState.PRUNED and metrics and has_several:
        state = TrialState.COMPLETE
    if state is TrialState.COMPLETE and not metrics:
        state = TrialState.FAIL  # it never reported what is sought
    steps = {
        row.epoch: row.metrics[definition.metrics[0]]
        for row in trial.epochs
        if definition.metrics[0] in row.metrics and not has_several
    }
    values: list[float] | None = list(metrics) if state is TrialState.COMPLETE else None
    if state is TrialState.PRUNED and metrics:
        values = list(metrics)
    told = {limit: max(trial.violations.get(limit, 0.0), 0.0) for limit in limits}
    made = create_trial(
        state=state,
        values=values,
        params=dict(trial.values),
        distributions=_distributions(definition.space, trial.values),
        intermediate_values=steps,
        constraints=told if state.is_finished() else None,
        user_attrs=_attributes(trial),
    )
    made.datetime_start = _moment(trial.at)
    if state.is_finished():
        made.datetime_complete = _moment(trial.ended_at or trial.at)
    return made


def _attributes(trial: trials.Trial) -> dict[str, Any]:
    told: dict[str, Any] = {
        "trial": trial.number,
        "state": trial.state.value,
        "settings": dict(trial.settings),
        "runs": list(trial.runs),
        "why": trial.why,
    }
    return {key: value for key, value in told.items() if value}


def _moment(at: Seconds) -> datetime:
    """Local time without a zone, as Optuna keeps it."""
    return datetime.fromtimestamp(at, UTC).astimezone().replace(tzinfo=None)
