"""The block `sweep:` of a config, checked by hand: its keys, their values, the nearest names."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.config.fields import NAME_PATTERN, memory_size
from orchestrator.config.words import nearest
from orchestrator.config.yaml import shown
from orchestrator.errors import ConfigError
from orchestrator.sweep.defaults import default_mode
from orchestrator.sweep.definition import SCHEDULERS, SEARCHES, Definition, Limits
from orchestrator.sweep.space import Dimension, Kind, Tie, choice, integer, loguniform, uniform
from orchestrator.types import Scalar

__all__ = ["read_block", "read_dimension", "read_space"]

ORDERS = ("arrive", "fixed")
_LIMITS = ("memory", "seconds_per_epoch", "energy")
_MAKERS: Mapping[str, Callable[..., Dimension]] = {
    "choice": lambda *options: choice(options),
    "uniform": uniform,
    "loguniform": loguniform,
    "int": integer,
}
_BESIDE = ("when", "tie", "at")


def read_block(block: Mapping[str, Any], base: Definition) -> Definition:
    """Lay a block over the definition that holds without it.

    Raises:
        ConfigError: E1010 an unknown key, with the nearest; E1011 a value that is not allowed;
            E1013 a name that cannot be one; E1063 a scheduler that cannot do what is asked.
    """
    _known(block, _KEYS, "sweep")
    changes = {
        field: read(block[key], f"sweep.{key}")
        for key, (field, read) in _READERS.items()
        if block.get(key) is not None
    }
    changes["modes"] = _modes(block.get("mode"), changes.get("metrics", base.metrics))
    definition = replace(base, **changes)
    _check(definition, block)
    return _rounded(definition, block)


def read_space(given: object, path: str = "sweep.space") -> dict[str, Dimension]:
    """A space as YAML or Python writes it: by key a list, a block, or a `Dimension`.

    Raises:
        ConfigError: As `read_block`.
    """
    if not isinstance(given, Mapping):
        raise _wrong(path, "must be a block of keys", given)
    return {str(key): read_dimension(str(key), value) for key, value in given.items()}


def read_dimension(key: str, given: object) -> Dimension:
    """One key of a space; raises as `read_block`."""
    path = f"sweep.space.{key}"
    if isinstance(given, Dimension):
        return given
    if isinstance(given, list | tuple):
        given = {"choice": list(given)}
    if not isinstance(given, Mapping):
        raise _wrong(path, "must be a list of values, or uniform, loguniform or int", given)
    _known(given, {*_MAKERS, *_BESIDE}, path)
    kinds = [kind for kind in given if kind in _MAKERS]
    if len(kinds) != 1 or not isinstance(given[kinds[0]], list | tuple):
        raise _wrong(path, "needs one of choice, uniform, loguniform, int with a list", given)
    try:
        made = _MAKERS[kinds[0]](*(_scalar(each) for each in given[kinds[0]]))
        return _beside(made, given)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"cannot be: {error}", given) from error


def _beside(made: Dimension, given: Mapping[str, Any]) -> Dimension:
    when = given.get("when") or {}
    told = {
        str(name): tuple(value) if isinstance(value, list | tuple) else (value,)
        for name, value in when.items()
    }
    tie = given.get("tie")
    return replace(
        made, when=told, tie=None if tie is None else Tie(tie), at=int(given.get("at", made.at))
    )


def _limits(given: object, path: str) -> Limits:
    if not isinstance(given, Mapping):
        raise _wrong(path, "must be a block of keys", given)
    _known(given, _LIMITS, path)
    memory = given.get("memory")
    try:
        num_bytes = None if memory is None else memory_size(memory)
    except ValueError as error:
        raise _wrong("sweep.limits.memory", str(error), memory) from error
    rest = {
        key: _positive(given[key], f"sweep.limits.{key}") for key in _LIMITS[1:] if key in given
    }
    return Limits(memory_bytes=num_bytes, **rest)


def _check(definition: Definition, found: Mapping[str, Any]) -> None:
    """What is right alone and wrong together."""
    if definition.search == "gp":
        _check_gp(definition, found)
    if definition.scheduler == "pbt":
        _check_population(definition)
    if definition.search == "grid":
        for key, dimension in definition.space.items():
            if dimension.kind not in (Kind.CHOICE, Kind.INTEGER):
                raise ConfigError(
                    f"sweep.search is grid, and {key} has endless values",
                    code="E1063",
                    fix=(f"list values of {key}, or search: random",),
                )
    if definition.search in ("random", "grid") and found.get("warm"):
        raise ConfigError(
            f"sweep.warm: search {definition.search} learns nothing from earlier sweeps",
            code="E1063",
            fix=("search: tpe",),
        )


def _check_population(definition: Definition) -> None:
    if definition.trials < 4:
        raise ConfigError(
            f"sweep.scheduler is pbt, and a population of {definition.trials} is too small",
            code="E1063",
            why=("a quarter of it is replaced after each interval",),
            fix=("sweep.trials=8",),
        )
    fixed = [key for key in ("model", "imgsz", "optimizer") if key in definition.space]
    if fixed:
        raise ConfigError(
            f"sweep.scheduler is pbt, and {' and '.join(fixed)} cannot change while it trains",
            code="E1063",
            why=("a clone goes on from the checkpoint of another trial",),
            fix=("search over them in a sweep of its own: scheduler=asha",),
        )


def _check_gp(definition: Definition, found: Mapping[str, Any]) -> None:
    if found.get("scheduler") in ("asha", "hyperband", "pbt"):
        raise ConfigError(
            f"sweep.search is gp, and the scheduler {definition.scheduler} ends trials early",
            code="E1063",
            why=("a Gaussian process learns from whole trainings alone",),
            fix=("scheduler: none", "or search: tpe"),
        )
    if definition.limits.seconds_per_epoch or definition.limits.energy:
        raise ConfigError(
            "sweep.search is gp, which knows no limits of time and energy",
            code="E1063",
            why=("its border is what planning knows: memory",),
            fix=("search: tpe",),
        )


def _rounded(definition: Definition, found: Mapping[str, Any]) -> Definition:
    """What follows from other keys: BOHB is TPE with HyperBand; a grid has as many trials."""
    if definition.search == "bohb" and "scheduler" not in found:
        definition = replace(definition, scheduler="hyperband")
    if definition.search == "gp":
        definition = replace(definition, scheduler="none")
    if definition.search == "grid" and "trials" not in found:
        from orchestrator.sweep.space import grid

        definition = replace(definition, trials=sum(1 for _ in grid(definition.space)))
    return definition


def _known(given: Mapping[str, Any], known: Collection[str], path: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{path}.{shown(str(key))} is not a known key",
                code="E1010",
                fix=(f"the nearest: {', '.join(nearest(str(key), known))}",),
            )


def _name(given: object, path: str) -> str:
    if not isinstance(given, str) or not re.fullmatch(NAME_PATTERN, given) or ".." in given:
        raise ConfigError(
            f"{path} {shown(repr(given))} cannot be a name",
            code="E1013",
            fix=("a-z, 0-9, '.', '_' or '-', at most 63 of them",),
        )
    return given


def _texts(given: object, path: str) -> tuple[str, ...]:
    values = given if isinstance(given, list | tuple) else [given]
    if not values or not all(isinstance(value, str) and value for value in values):
        raise _wrong(path, "must be a word or a list of words", given)
    return tuple(str(value) for value in values)


def _modes(given: object, metrics: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return tuple(default_mode(metric) for metric in metrics)
    modes = _texts(given, "sweep.mode")
    if len(modes) != len(metrics) or any(mode not in ("max", "min") for mode in modes):
        raise _wrong("sweep.mode", "must be max or min, one for each metric", given)
    return modes


def _one_of(*words: str) -> Callable[[object, str], str]:
    def read(given: object, path: str) -> str:
        if given not in words:
            raise _wrong(path, f"must be one of {', '.join(words)}", given)
        return str(given)

    return read


def _at_least(least: int) -> Callable[[object, str], int]:
    def read(given: object, path: str) -> int:
        if not isinstance(given, int) or isinstance(given, bool) or given < least:
            raise _wrong(path, f"must be a whole number, at least {least}", given)
        return given

    return read


def _positive(given: object, path: str) -> float:
    if not isinstance(given, int | float) or isinstance(given, bool) or not given > 0:
        raise _wrong(path, "must be a number above 0", given)
    return float(given)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"{value!r:.40} is not a single value")


def _wrong(path: str, saying: str, given: object) -> ConfigError:
    return ConfigError(f"{path} {saying}, not {shown(repr(given))}", code="E1011")


_READERS: Mapping[str, tuple[str, Callable[[Any, str], Any]]] = {  # key: field, and its reader
    "name": ("name", _name),
    "metric": ("metrics", _texts),
    "space": ("space", read_space),
    "limits": ("limits", _limits),
    "warm": ("warm", _texts),
    "gpus": ("gpus", _positive),
    "trials": ("trials", _at_least(1)),
    "max_concurrent": ("max_concurrent", _at_least(1)),
    "grace": ("grace", _at_least(1)),
    "interval": ("interval", _at_least(1)),
    "reduction": ("reduction", _at_least(2)),
    "seed": ("seed", _at_least(0)),
    "search": ("search", _one_of(*SEARCHES)),
    "scheduler": ("scheduler", _one_of(*SCHEDULERS)),
    "order": ("order", _one_of(*ORDERS)),
}
_KEYS = frozenset({*_READERS, "project", "mode"})
