"""Searchers: what suggests values and learns from what came of them; by chance and over a grid."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.sweep.space import Space, Values, grid, sample

__all__ = ["GridSearch", "Outcome", "RandomSearch", "Searcher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a suggestion.

    `scores` are one for each metric, the higher the better; empty where there are none. A value of
    `violations` above 0 is a limit that was broken, and by how much of it. `is_refused`: planning
    showed that, and nothing was started.
    """

    scores: Sequence[float] = ()
    epoch: int = 0
    is_whole: bool = True  # False: stopped early, after `epoch`
    violations: Mapping[str, float] = field(default_factory=dict)
    is_refused: bool = False

    @property
    def is_feasible(self) -> bool:
        """Whether no limit was broken."""
        return all(value <= 0.0 for value in self.violations.values())


class Searcher(Protocol):
    """Suggests values. A suggestion depends on the seed, its number, and what was told before."""

    def suggest(self, number: int) -> Values | None:
        """Values for the suggestion of this number; None: there are no more."""
        ...

    def take(self, number: int, values: Values) -> None:
        """Learn that the suggestion of this number was these values, from a record."""
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn what came of a suggestion."""
        ...


class RandomSearch:
    """Suggests by chance and learns nothing.

    Args:
        space: What may be chosen.
        seed: Equal seeds give equal suggestions.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def suggest(self, number: int) -> Values | None:
        """Values by chance."""
        return sample(self._space, random.Random(f"{self._seed}/{number}/suggest"))

    def take(self, number: int, values: Values) -> None:
        """Nothing to learn."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Nothing to learn."""


class GridSearch:
    """Suggests every combination once, in the order of the space.

    Args:
        space: Of choices and whole numbers.

    Raises:
        ValueError: A key has endless values.
    """

    def __init__(self, space: Space) -> None:
        self._every = list(grid(space))

    def suggest(self, number: int) -> Values | None:
        """The combination of this number, counted from 1."""
        return self._every[number - 1] if number <= len(self._every) else None

    def take(self, number: int, values: Values) -> None:
        """Nothing to learn."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Nothing to learn."""
