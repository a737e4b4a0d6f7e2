"""`orc sweep CFG` and `orc sweep ls|show|stop|resume|best`: their options, nothing else."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.words import Emulate, Home, Json, Runs, flags, split_words
from orchestrator.errors import ConfigError

__all__ = ["register"]

_NAMED = ("show", "stop", "resume", "best")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep")(_sweep)


def _sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG [KEY=VALUE]... | ls | show NAME | stop NAME | resume NAME [CONFIG] |"
            " best NAME",
            help="A config with a block `sweep`, then settings; or what to do with one.",
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", min=1, help="With best: this trial instead.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="With best: the file for its config.")
    ] = None,
    emulate: Emulate = None,
    runs: Runs = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Search hyperparameters within the memory there is; or list, show, stop, resume sweeps."""
    from jobs import sweep as job
    from orchestrator.client.access import Client
    from orchestrator.console import sweeps

    given = list(words or [])
    verb = given[0] if given else ""
    client = Client(home)
    if verb == "ls" and len(given) == 1:
        return sweeps.list_sweeps(client, as_json=as_json)
    if verb not in _NAMED:
        path, settings = split_words(given)
        settings += flags(emulate, runs)
        return job.sweep(path, settings, home=home, as_json=as_json)
    if len(given) < 2 or (verb != "resume" and len(given) > 2):
        raise ConfigError(
            f"orc sweep {verb} needs the name of a sweep",
            code="E1030",
            fix=(f"orc sweep {verb} NAME", "orc sweep ls lists them"),
        )
    name, rest = given[1], given[2:]
    if verb == "show":
        return sweeps.show_sweep(client, name, as_json=as_json)
    if verb == "stop":
        return sweeps.stop_sweep(client, name, as_json=as_json)
    if verb == "best":
        return sweeps.show_best(client, name, trial=trial, write=write, as_json=as_json)
    path, settings = split_words(rest) if rest else (None, [])
    return job.resume(name, path, settings, home=home, as_json=as_json)
