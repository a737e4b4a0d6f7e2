"""Population based training: who goes on as a clone of whom, and under which values."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.sweep.space import Space, Values, move

__all__ = ["QUANTILE", "Step", "steps"]

QUANTILE = 0.25
"""Part of a population that is replaced, and part that it is replaced by (Jaderberg et al. 2017,
arXiv 1711.09846, section 4.1.1: truncation selection)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How a trial goes on: from the checkpoint of `donor` (itself, unless it is replaced)."""

    donor: int
    values: Values


def steps(
    space: Space, scores: Mapping[int, float], values: Mapping[int, Values], chance: random.Random
) -> dict[int, Step]:
    """How every trial of a population goes on, once all have come to the end of an interval.

    Args:
        space: What may be changed.
        scores: By trial, the higher the better.
        values: By trial, what it has trained with.
        chance: Decides; equal chance gives equal steps.
    """
    ranked = sorted(scores, key=lambda trial: (-scores[trial], trial))
    count = min(round(len(ranked) * QUANTILE) or 1, len(ranked) // 2)
    best, worst = ranked[:count], set(ranked[len(ranked) - count :])
    found: dict[int, Step] = {}
    for trial in sorted(scores):
        if trial not in worst:
            found[trial] = Step(donor=trial, values=values[trial])
            continue
        donor = chance.choice(best)
        found[trial] = Step(donor=donor, values=move(space, values[donor], chance))
    return found
