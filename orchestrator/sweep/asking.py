"""What people ask of sweeps: create one, go on with it, stop it, take its best as a config."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.address import is_address
from orchestrator.client.access import Client
from orchestrator.client.storage import demand_storage
from orchestrator.config.fields import memory_size
from orchestrator.config.yaml import read_yaml, write_yaml
from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.reading import load_sweep, with_changes
from orchestrator.sweep.records import create_sweep, read_sweep
from orchestrator.sweep.trials import SweepState, Trial
from orchestrator.types import Bytes

__all__ = ["best_config", "continued", "create", "stop"]


def create(
    client: Client,
    config: Path | str | Mapping[str, Any],
    words: Sequence[str] = (),
    **given: Any,
) -> Definition:
    """Put a sweep into the store; nothing is started.

    Args:
        client: Of the store.
        config: As `reading.load_sweep`, and so are the other arguments; `warm` names earlier
            sweeps whose trials the searcher knows from the start.
        words: `key=value` words.
        given: Keys of the block.

    Raises:
        ConfigError: The config or the block is wrong, or runs cannot be kept at its address.
        ConflictError: E5030, there is one of this name.
        NotFoundError: E5031, there is no sweep to learn from.
    """
    definition = load_sweep(config, words, **given)
    runs = str((read_yaml(definition.config, definition.name).value or {}).get("runs", ""))
    demand_storage(runs if is_address(runs) else "")
    earlier = [read_sweep(client, name) for name in definition.warm]
    known = [
        each
        for record in earlier
        for each in record.known()
        if record.definition.metrics == definition.metrics
        and all(
            key in definition.space and definition.space[key].holds(value)
            for key, value in each.values.items()
        )
    ]
    definition = replace(definition, known=tuple(known))
    with client.store() as store:
        create_sweep(store, definition, time.time())
    return definition


def continued(
    client: Client,
    name: str,
    config: Path | str | Mapping[str, Any] | None = None,
    words: Sequence[str] = (),
    **given: Any,
) -> Definition:
    """A sweep as it goes on: with the config that it was made of, or a longer one.

    Raises:
        NotFoundError: E5031, there is no such sweep.
        ConfigError: E1061, more has changed than how many trials, and how many at a time.
    """
    old = read_sweep(client, name).definition
    if config is None:
        return old
    new = load_sweep(config, words, **given)
    changed = with_changes(old, replace(new, name=old.name))
    with client.store() as store:
        store.sweeps.change(name, changed.text())
    return changed


def stop(client: Client, name: str) -> None:
    """Ask whoever conducts a sweep to end what trains and leave; it can go on later.

    Raises:
        NotFoundError: E5031, there is no such sweep.
    """
    record = read_sweep(client, name)
    if record.state is SweepState.RUNNING:
        with client.store() as store:
            store.sweeps.set_state(name, SweepState.STOPPED.value)


def best_config(client: Client, name: str, trial: int | None = None) -> tuple[Trial, str]:
    """The best trial, or the one named, and the config that trains it again.

    Raises:
        NotFoundError: E5031 no such sweep, E5033 no such trial, or none has a score yet.
        ConfigError: The block cannot be written.
    """
    record = read_sweep(client, name)
    chosen = next((t for t in record.trials if t.number == trial), None) if trial else record.best
    if chosen is None:
        raise NotFoundError(
            f"the sweep {name} has no trial {trial}" if trial else f"{name} has no scored trial",
            code="E5033",
            fix=(f"orc sweep show {name}",),
        )
    value = read_yaml(record.definition.config, name).value
    if not isinstance(value, dict):
        raise ConfigError(f"the config of {name} is damaged", code="E1011")
    block = value["projects"][0]
    for key, setting in chosen.settings.items():
        first, _, rest = key.partition(".")
        if rest:
            block.setdefault(first, {})[rest] = setting
        else:
            block[first] = setting
    _hold(block, record.definition.limits.memory_bytes)
    return chosen, write_yaml(json.loads(json.dumps(value)))


def _hold(block: dict[str, Any], limit: Bytes | None) -> None:
    """Hold a project to the memory that its trials were held to: it decides the micro-batch."""
    if limit is None:
        return
    resources = block.setdefault("resources", {})
    given = resources.get("memory")
    if given in (None, "auto") or memory_size(given) > limit:
        resources["memory"] = f"{limit}B"
