"""What a sweep may choose: the values of each key of a config, tied to others where wanted."""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from orchestrator.types import Scalar

__all__ = [
    "Dimension",
    "Kind",
    "Space",
    "Tie",
    "Values",
    "choice",
    "grid",
    "integer",
    "is_active",
    "loguniform",
    "move",
    "only_if",
    "sample",
    "settings_of",
    "tied",
    "uniform",
]

Values: TypeAlias = Mapping[str, Scalar]
"""What a trial tries, by the key of the config."""


class Kind(StrEnum):
    """How the values of a dimension are spread."""

    CHOICE = "choice"
    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    INTEGER = "integer"


class Tie(StrEnum):
    """How a learning rate follows the effective batch.

    Linear: Goyal et al. 2017 (arXiv 1706.02677), for SGD. Square root: Krizhevsky 2014 (arXiv
    1404.5997); Malladi et al. 2022 (arXiv 2205.10287) derive it for Adam.
    """

    LINEAR = "linear"
    SQRT = "sqrt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """The values that one key may take.

    `low` and `high` belong to it. `when` names other keys and the values of theirs under which
    this one is chosen at all. With `tie` a value is meant for a batch of `at` samples.
    """

    kind: Kind
    options: tuple[Scalar, ...] = ()
    low: float = 0.0
    high: float = 1.0
    step: int = 1
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    tie: Tie | None = None
    at: int = 64

    def __post_init__(self) -> None:
        if self.kind is Kind.CHOICE:
            if not self.options:
                raise ValueError("a choice needs at least one value")
            if len(set(map(repr, self.options))) < len(self.options):
                raise ValueError("a choice names each value once")
        elif not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"needs low < high, not {self.low} and {self.high}")
        if self.kind is Kind.LOGUNIFORM and self.low <= 0:
            raise ValueError(f"needs low > 0, not {self.low}")
        if self.step < 1 or self.at < 1:
            raise ValueError("step and at are at least 1")

    def holds(self, value: Scalar) -> bool:
        """True for a value that this dimension could have been given."""
        if self.kind is Kind.CHOICE:
            return any(value == each and type(value) is type(each) for each in self.options)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        is_on_grid = self.kind is not Kind.INTEGER or (
            isinstance(value, int) and (value - int(self.low)) % self.step == 0
        )
        return self.low <= value <= self.high and is_on_grid


Space: TypeAlias = Mapping[str, Dimension]


def choice(options: Sequence[Scalar]) -> Dimension:
    """One of these."""
    return Dimension(kind=Kind.CHOICE, options=tuple(options))


def uniform(low: float, high: float) -> Dimension:
    """Any number between the two."""
    return Dimension(kind=Kind.UNIFORM, low=float(low), high=float(high))


def loguniform(low: float, high: float) -> Dimension:
    """Any number between the two, every order of magnitude as likely as another."""
    return Dimension(kind=Kind.LOGUNIFORM, low=float(low), high=float(high))


def integer(low: int, high: int, step: int = 1) -> Dimension:
    """A whole number from `low` to `high`, both included, in steps."""
    last = low + (high - low) // max(step, 1) * max(step, 1)
    return Dimension(kind=Kind.INTEGER, low=float(low), high=float(last), step=step)


def only_if(dimension: Dimension, **when: Scalar | Sequence[Scalar]) -> Dimension:
    """The dimension, chosen only where other keys have (one of) these values."""
    told = {
        key: tuple(value) if isinstance(value, list | tuple) else (value,)
        for key, value in when.items()
    }
    return replace(dimension, when={**dimension.when, **told})


def tied(dimension: Dimension, rule: str, at: int = 64) -> Dimension:
    """A learning rate meant for a batch of `at`, made fit for the trial's own batch.

    Args:
        dimension: Of a learning rate.
        rule: `linear` or `sqrt`.
        at: The batch at which the value holds as it stands.
    """
    return replace(dimension, tie=Tie(rule), at=at)


def is_active(dimension: Dimension, values: Values) -> bool:
    """Whether a dimension is chosen beside what has been chosen before it."""
    return all(values.get(key) in allowed for key, allowed in dimension.when.items())


def sample(space: Space, chance: random.Random) -> dict[str, Scalar]:
    """Values by chance, in the order of the space; inactive dimensions are left out."""
    values: dict[str, Scalar] = {}
    for key, dimension in space.items():
        if is_active(dimension, values):
            values[key] = _draw(dimension, chance)
    return values


def _draw(dimension: Dimension, chance: random.Random) -> Scalar:
    if dimension.kind is Kind.CHOICE:
        return chance.choice(dimension.options)
    if dimension.kind is Kind.INTEGER:
        return chance.randrange(int(dimension.low), int(dimension.high) + 1, dimension.step)
    if dimension.kind is Kind.LOGUNIFORM:
        power = chance.uniform(math.log(dimension.low), math.log(dimension.high))
        return min(max(math.exp(power), dimension.low), dimension.high)
    return chance.uniform(dimension.low, dimension.high)


def grid(space: Space) -> Iterator[dict[str, Scalar]]:
    """Every combination of a space of choices and whole numbers; conditional keys only once.

    Raises:
        ValueError: A dimension has endless values.
    """
    seen: set[tuple[tuple[str, Scalar], ...]] = set()
    for combination in itertools.product(*(_all(key, each) for key, each in space.items())):
        values: dict[str, Scalar] = {}
        for (key, dimension), value in zip(space.items(), combination, strict=True):
            if is_active(dimension, values):
                values[key] = value
        if (found := tuple(values.items())) not in seen:
            seen.add(found)
            yield values


def _all(key: str, dimension: Dimension) -> Sequence[Scalar]:
    if dimension.kind is Kind.CHOICE:
        return dimension.options
    if dimension.kind is Kind.INTEGER:
        return range(int(dimension.low), int(dimension.high) + 1, dimension.step)
    raise ValueError(f"{key} has endless values; a grid needs choices or whole numbers")


def move(space: Space, values: Values, chance: random.Random) -> dict[str, Scalar]:
    """Values near others, as population based training explores (Jaderberg et al. 2017).

    Numbers are multiplied by 0.8 or 1.2, choices of numbers go to a neighbour, other choices stay;
    each is drawn anew with probability 1/4.
    """
    moved: dict[str, Scalar] = {}
    for key, dimension in space.items():
        if not is_active(dimension, moved):
            continue
        is_new = chance.random() < 0.25
        factor = chance.choice((0.8, 1.2))
        drawn = _draw(dimension, chance)
        moved[key] = drawn if is_new or key not in values else _near(dimension, values[key], factor)
    return moved


def _near(dimension: Dimension, value: Scalar, factor: float) -> Scalar:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if dimension.kind is Kind.CHOICE:
        if not is_number or value not in dimension.options:
            return value
        ordered = sorted(dimension.options, key=lambda each: (str(type(each)), each))
        at = ordered.index(value) + (1 if factor > 1 else -1)
        return ordered[min(max(at, 0), len(ordered) - 1)]
    assert isinstance(value, int | float)
    near = min(max(value * factor, dimension.low), dimension.high)
    if dimension.kind is Kind.INTEGER:
        steps = round((near - dimension.low) / dimension.step)
        return int(dimension.low) + steps * dimension.step
    return near


def settings_of(space: Space, values: Values, batch: int) -> dict[str, Scalar]:
    """The keys of the config as a trial sets them: rates are tied to its effective batch.

    Args:
        space: Says which are tied.
        values: What was chosen.
        batch: The effective batch where the trial chooses none.
    """
    own = values.get("batch", batch)
    assert isinstance(own, int)
    settings = dict(values)
    for key, dimension in space.items():
        value = values.get(key)
        if dimension.tie is None or not isinstance(value, int | float):
            continue
        ratio = own / dimension.at
        settings[key] = value * (ratio if dimension.tie is Tie.LINEAR else math.sqrt(ratio))
    return settings
