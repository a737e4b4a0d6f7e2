"""What a sweep is: metrics, space, searcher, scheduler, limits; frozen when it is created."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.errors import ConfigError
from orchestrator.store.codec import from_plain, to_plain
from orchestrator.sweep.space import Dimension, Values

__all__ = ["SCHEDULERS", "SEARCHES", "Definition", "Known", "Limits", "read_definition"]

SEARCHES = ("tpe", "gp", "random", "grid", "bohb")
SCHEDULERS = ("none", "asha", "hyperband", "pbt")
_MAY_CHANGE = ("trials", "max_concurrent", "gpus")  # of a sweep that goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a trial may take; None does not limit.

    Energy is in watt-hours an epoch, at the power limit of the card: an upper bound.
    """

    memory_bytes: int | None = None
    seconds_per_epoch: float | None = None
    energy: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A trial of an earlier sweep, for a warm start: no scores where it was infeasible."""

    values: Values
    scores: tuple[float, ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One sweep. `config` is the YAML of the project that its trials vary, seen from `folder`.

    `order` says how reports are taken: as they `arrive`, or in `fixed` turns, which make all
    decisions independent of timing. `grace` and `interval` are epochs.
    """

    name: str
    metrics: tuple[str, ...]
    modes: tuple[str, ...]  # max | min, one for each metric
    space: Mapping[str, Dimension]
    config: str
    folder: str
    project: str
    words: tuple[str, ...] = ()
    trials: int = 20
    search: str = "tpe"
    scheduler: str = "asha"
    order: str = "arrive"
    max_concurrent: int = 4
    gpus: float | None = None
    seed: int = 0
    epochs: int = 1  # of a whole training
    batch: int = 16  # where a trial chooses none
    grace: int = 1
    reduction: int = 3
    interval: int = 1
    limits: Limits = field(default_factory=Limits)
    warm: tuple[str, ...] = ()  # earlier sweeps to learn from
    known: tuple[Known, ...] = ()

    @property
    def queue(self) -> str:
        """The queue of its own whose quota is the sweep's share of the cluster."""
        return f"sweep-{self.name}"[:63].rstrip("._-")

    @property
    def substance(self) -> str:
        """SHA-256 over what decides the trials; what may change while it goes on is left out."""
        plain = {k: v for k, v in to_plain(self).items() if k not in _MAY_CHANGE}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """As it is kept in the store."""
        return json.dumps(to_plain(self), allow_nan=False)

    def demand_same(self, other: "Definition") -> None:
        """Raise where the other one, of the same name, would not go on with this one.

        Raises:
            ConfigError: E1061, names what has changed.
        """
        changed = [
            f.name
            for f in dataclasses.fields(self)
            if f.name not in (*_MAY_CHANGE, "known")
            and getattr(self, f.name) != getattr(other, f.name)
        ]
        if not changed:
            return
        keys = sorted(
            key
            for key in {**self.space, **other.space}
            if self.space.get(key) != other.space.get(key)
        )
        raise ConfigError(
            f"the sweep {self.name} cannot go on with another {' and '.join(changed)}",
            code="E1061",
            why=(f"changed in the space: {', '.join(keys)}",) if keys else (),
            fix=(
                "put it back as it was (orc sweep show NAME --json has it)",
                f"or begin another sweep that learns from it: sweep.warm=[{self.name}]",
            ),
        )


def read_definition(text: str) -> Definition:
    """The definition that `text` was made of.

    Raises:
        StoreError: E5010, it was written by another version, or is damaged.
    """
    return from_plain(Definition, json.loads(text))
