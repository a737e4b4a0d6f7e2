"""A Gaussian process as a sampler that looks for its best candidate within a border it knows."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from optuna.samplers import GPSampler

from orchestrator.types import Scalar

__all__ = ["BorderedGPSampler"]

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_FAR = 1024  # candidates by chance, anywhere
_NEAR = 512  # and around the best trials, in steps between these parts of a range
_LEAST_STEP, _LARGEST_STEP = 0.01, 0.3
_SHARE_MOVED = 0.5  # of the keys of a candidate near the best
_SHARE_REDRAWN = 0.15  # of its choices


class BorderedGPSampler(GPSampler):  # type: ignore[misc]  # Optuna is not followed
    """Optuna's sampler, whose acquisition is maximised over candidates that are known to fit.

    The border is asked for, not learned, so neither a cliff nor a plateau is told to the process,
    which is smooth (as input constraints in Gelbart et al. 2014, arXiv 1403.5607, but known).
    Candidates are asked about from the best on until one fits.

    Args:
        fits: Whether values can run; None takes every candidate.
        seed: Equal seeds and equal studies give equal suggestions.
        num_startup: Suggestions by chance before the process is used.
        is_wide: Whether candidates near the best trials are left out, so that a search does not
            settle where other models or optimizers were tried too little.
    """

    def __init__(
        self,
        fits: Callable[[Mapping[str, Scalar]], bool] | None,
        *,
        seed: int,
        num_startup: int,
        is_wide: bool = False,
    ) -> None:
        super().__init__(seed=seed, n_startup_trials=num_startup, warn_independent_sampling=False)
        self._fits = fits
        self._is_wide = is_wide

    def _optimize_acqf(self, acqf: Any, best_params: Array | None) -> Array:
        """Optuna's place for another optimiser: the best candidate that fits, else the best."""
        space = acqf.search_space
        candidates = self._candidates(space, best_params)
        order = np.argsort(-acqf.eval_acqf_no_grad(candidates), kind="stable")
        for index in order:
            values = space.get_unnormalized_param(candidates[index])
            if self._fits is None or self._fits(values):
                return np.asarray(candidates[index])
        return np.asarray(candidates[order[0]])

    def _candidates(self, space: Any, best: Array | None) -> Array:
        """Rows of normalised values, each from 0 to 1, or the index of a choice."""
        chance = self._rng.rng
        far: Array = space.sample_normalized_params(_FAR, chance)
        if best is None or self._is_wide:
            return far
        near = best[chance.randint(len(best), size=_NEAR)]
        steps = np.exp(chance.uniform(np.log(_LEAST_STEP), np.log(_LARGEST_STEP), (_NEAR, 1)))
        is_moved = chance.uniform(size=near.shape) < _SHARE_MOVED
        moved = np.clip(near + chance.normal(size=near.shape) * steps * is_moved, 0.0, 1.0)
        is_choice = np.asarray(space.is_categorical)
        steps_of = zip(space.discrete_indices, space.get_choices_of_discrete_params(), strict=True)
        for column, values in steps_of:
            if not is_choice[column]:  # a value between two steps would be drawn anew, by chance
                nearest = np.abs(moved[:, [column]] - values).argmin(axis=1)
                moved[:, column] = values[nearest]
        is_redrawn = chance.uniform(size=near.shape) < _SHARE_REDRAWN
        redrawn = np.where(is_redrawn, space.sample_normalized_params(_NEAR, chance), near)
        return np.vstack([far, np.where(is_choice, redrawn, moved)])
