"""Options of `orc submit --address`, and what they ask of a Ray elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from orchestrator.cli.words import flags, split_words
from orchestrator.errors import ConfigError

__all__ = [
    "Address",
    "ClusterHome",
    "DataRoot",
    "DriverCpus",
    "DryRun",
    "Exclude",
    "Include",
    "WorkingDir",
    "demand_local",
    "submit_elsewhere",
]

Address: TypeAlias = Annotated[
    str | None, typer.Option("--address", metavar="URL", help="A Ray's job server: a job there.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="With --address: list what would be uploaded.")
]
WorkingDir: TypeAlias = Annotated[
    Path | None, typer.Option("--working-dir", help="With --address: upload this; default: .")
]
DataRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-root", help="With --address: where relative data begin on the cluster."),
]
ClusterHome: TypeAlias = Annotated[
    str | None, typer.Option("--cluster-home", help="With --address: ORC_HOME on the cluster.")
]
Exclude: TypeAlias = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="With --address: stays here.")
]
Include: TypeAlias = Annotated[
    list[str] | None, typer.Option("--include", metavar="GLOB", help="With --address: goes along.")
]
DriverCpus: TypeAlias = Annotated[
    float | None, typer.Option("--driver-cpus", min=0.0, help="With --address: for its driver.")
]


def demand_local(*given: object) -> None:
    """Refuse options that mean nothing without an address.

    Raises:
        ConfigError: E1030, one was given.
    """
    if any(given):
        raise ConfigError(
            "these options are for a Ray elsewhere, and no --address was given",
            code="E1030",
            fix=("orc submit --address http://HEAD:8265 CONFIG",),
        )


def submit_elsewhere(
    words: Sequence[str],
    runs: Path | None,
    options: Mapping[str, Any],
    *,
    home: Path | None,
    as_json: bool,
    wait: bool,
    dry_run: bool,
) -> int:
    """Have a config trained as a job of a Ray elsewhere; returns the exit code."""
    from jobs.remote import RemoteOptions, submit_remote

    path: Path | None = None
    settings: list[str] = []
    if words or options["key"] is None:
        path, settings = split_words(words)
        if path is None:
            raise ConfigError(
                "a job needs a config file",
                code="E1030",
                why=("projects given by words alone are for this machine",),
                fix=("orc submit --address ADDRESS CONFIG [key=value ...]",),
            )
    return submit_remote(
        path,
        [*settings, *flags(None, runs)],
        RemoteOptions(**options),
        home=home,
        as_json=as_json,
        is_waiting=wait,
        is_dry=dry_run,
    )
