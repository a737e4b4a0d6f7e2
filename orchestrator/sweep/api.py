"""Sweeps from Python: run one to its end and get Ray Tune's own ResultGrid."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.client.access import Client
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct
from orchestrator.sweep.records import read_sweep

if TYPE_CHECKING:
    from orchestrator.sweep.tune_grid import SweepResults

__all__ = ["best", "results", "resume", "run", "stop"]


def run(
    config: Path | str | Mapping[str, Any],
    words: Sequence[str] = (),
    *,
    home: Path | str | None = None,
    **sweep: Any,
) -> "SweepResults":
    """Search to the end: create a sweep and conduct it, with a driver of its own if none runs.

    Args:
        config: A config file with one project, or the same as a mapping; a block `sweep` is read.
        words: `key=value` words over it.
        home: The folder of the store; None takes that of the environment.
        sweep: Keys of the block `sweep`, such as `name`, `space`, `metric`, `trials`, `search`.

    Returns:
        What `tune.Tuner.fit` returns, which tells importance and front besides. Refused
            suggestions are not in it: nothing of them ran.

    Raises:
        ConfigError: The config or the block is wrong.
        ConflictError: E5030, there is a sweep of this name.
        OrchestratorError: As `conducting.conduct`.
    """
    client = Client(home)
    definition = asking.create(client, config, words, **sweep)
    conduct(client, definition.name, said=_said)
    return results(definition.name, home=home)


def resume(
    name: str,
    config: Path | str | Mapping[str, Any] | None = None,
    words: Sequence[str] = (),
    *,
    home: Path | str | None = None,
    **sweep: Any,
) -> "SweepResults":
    """Go on with a sweep that was stopped or left behind; raises as `asking.continued`."""
    client = Client(home)
    asking.continued(client, name, config, words, **sweep)
    conduct(client, name, said=_said)
    return results(name, home=home)


def results(name: str, *, home: Path | str | None = None) -> "SweepResults":
    """A sweep as it stands, as Ray Tune's ResultGrid, and more; raises as `records.read_sweep`."""
    from orchestrator.sweep.tune_grid import result_grid

    client = Client(home)
    return result_grid(client, read_sweep(client, name))


def best(name: str, *, home: Path | str | None = None) -> str:
    """The best trial as a config that trains it again; raises as `asking.best_config`."""
    return asking.best_config(Client(home), name)[1]


def stop(name: str, *, home: Path | str | None = None) -> None:
    """Ask whoever conducts a sweep to end what trains and leave; raises as `asking.stop`."""
    asking.stop(Client(home), name)


def _said(text: str) -> None:
    sys.stderr.write(f"{text}\n")
