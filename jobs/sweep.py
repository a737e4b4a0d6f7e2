"""Conducts a sweep from its config to its end, or goes on with one: `orc sweep`.

As an entry point: `python -m jobs.sweep CONFIG [key=value ...]`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.console.say import say
from orchestrator.console.sweep_live import sweep_view, watched
from orchestrator.console.sweeps import show_sweep
from orchestrator.errors import ConfigError
from orchestrator.sweep import asking
from orchestrator.sweep.conducting import conduct
from orchestrator.sweep.trials import SweepState

__all__ = ["resume", "sweep"]


def sweep(path: Path | None, words: Sequence[str], client: Client, *, as_json: bool) -> int:
    """Create the sweep of a config and conduct it to its end; returns the exit code.

    Raises:
        ConfigError: The config or its block `sweep` is wrong.
        ConflictError: E5030, there is a sweep of this name.
        OrchestratorError: As `conducting.conduct`.
    """
    if path is None:
        raise ConfigError(
            "a sweep needs a config file", code="E1030", fix=("orc sweep CONFIG [key=value ...]",)
        )
    definition = asking.create(client, path, words)
    return _conduct(client, definition.name, as_json=as_json)


def resume(
    name: str,
    path: Path | None,
    words: Sequence[str],
    client: Client,
    *,
    as_json: bool,
) -> int:
    """Go on with a sweep; with its config, where that allows more trials; returns the exit code.

    Raises:
        NotFoundError: E5031, there is no such sweep.
        ConfigError: E1061, the config is another one by now.
        OrchestratorError: As `conducting.conduct`.
    """
    asking.continued(client, name, path, words)
    return _conduct(client, name, as_json=as_json)


def _conduct(client: Client, name: str, *, as_json: bool) -> int:
    try:
        with sweep_view() as view:
            record = conduct(client, name, said=view.note, watch=watched(view))
    except KeyboardInterrupt:
        say(f"left; its runs end with their driver. Go on: orc sweep resume {name}")
        return 130
    show_sweep(client, name, as_json=as_json)
    if record.state is SweepState.STOPPED:
        return 9
    return 0 if record.best is not None else 1


if __name__ == "__main__":
    words = [sys.executable, "-m", "orchestrator", "sweep", *sys.argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the command itself: one place tells errors
