"""Optuna's models as a searcher that can be rebuilt from a record."""

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from orchestrator.sweep.search import Outcome
from orchestrator.sweep.space import Dimension, Kind, Space, Values, is_active
from orchestrator.types import Scalar

__all__ = ["OptunaSearch"]

_WIDE_EVERY = 3  # of so many suggestions of a Gaussian process, one looks anywhere


class OptunaSearch:
    """Suggests what a model of the trials so far expects to be good, and to fit.

    Trials that broke a limit are told as broken constraints: the model learns that border, and
    their scores, which they do not have, do not bend it (Watanabe and Hutter 2023, arXiv
    2211.14411). What was refused is kept in the study and left out of the model: its border is
    known without one. Every suggestion has a seed of its own, so that it depends on the record
    alone.

    Args:
        space: What may be chosen.
        num_scores: How many metrics there are; of several, the Pareto front is sought.
        seed: Equal seeds and equal records give equal suggestions.
        num_startup: Suggestions by chance before the model is used.
        model: `tpe`, or `gp`: a Gaussian process, which learns from whole trainings alone.
        fits: Whether values can run, for the `gp`; None does not know.
    """

    def __init__(
        self,
        space: Space,
        *,
        num_scores: int = 1,
        seed: int = 0,
        num_startup: int = 10,
        model: str = "tpe",
        fits: Callable[[Values], bool] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._seed = seed
        self._num_startup = num_startup
        self._model = model
        self._fits = fits
        self.study = optuna.create_study(directions=["maximize"] * num_scores)
        self._open: dict[int, Any] = {}

    def suggest(self, number: int) -> Values | None:
        """Values that are worth trying."""
        self.study.sampler = self._sampler(number)
        return self._ask(number)

    def take(self, number: int, values: Values) -> None:
        """Learn that the suggestion of this number was these values."""
        self.study.enqueue_trial(dict(values))
        self._ask(number)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn what came of a suggestion."""
        trial = self._open.pop(number)
        for name, value in outcome.violations.items():
            trial.set_constraint(name, value)
        scores = list(outcome.scores)
        if outcome.is_refused:
            self.study.tell(trial, state=TrialState.FAIL)  # kept, and left out of the model
        elif not outcome.is_feasible:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif not scores:
            self.study.tell(trial, state=TrialState.FAIL)
        elif outcome.is_whole or len(scores) > 1:
            self.study.tell(trial, scores)
        else:
            trial.report(scores[0], outcome.epoch)
            self.study.tell(trial, state=TrialState.PRUNED)

    def know(self, values: Values, outcome: Outcome) -> None:
        """Learn from a trial of an earlier sweep."""
        number = -1 - len(self.study.get_trials(deepcopy=False))
        self.take(number, values)
        self.tell(number, outcome)

    def _ask(self, number: int) -> dict[str, Scalar]:
        trial = self.study.ask()
        values: dict[str, Scalar] = {}
        for key, dimension in self._space.items():
            if is_active(dimension, values):
                values[key] = _suggested(trial, key, dimension)
        self._open[number] = trial
        return values

    def _sampler(self, number: int) -> BaseSampler:
        text = f"{self._seed}/{number}/{self._model}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        if self._model == "gp":
            from orchestrator.sweep.search_gp import BorderedGPSampler

            return BorderedGPSampler(
                self._fits,
                seed=seed,
                num_startup=self._num_startup,
                is_wide=number % _WIDE_EVERY == 0,
            )
        return TPESampler(
            seed=seed,
            constant_liar=True,  # trials that still train count as not good
            n_startup_trials=self._num_startup,
        )


def _suggested(trial: Any, key: str, dimension: Dimension) -> Scalar:
    value: Scalar
    if dimension.kind is Kind.CHOICE:
        value = trial.suggest_categorical(key, list(dimension.options))
    elif dimension.kind is Kind.INTEGER:
        low, high = int(dimension.low), int(dimension.high)
        value = trial.suggest_int(key, low, high, step=dimension.step)
    else:
        is_log = dimension.kind is Kind.LOGUNIFORM
        value = trial.suggest_float(key, dimension.low, dimension.high, log=is_log)
    return value
