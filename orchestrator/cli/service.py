"""`orc serve`, `submit`, `wait`, `events`, `rerun`, `queue`: their options, nothing else."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from orchestrator.cli.elsewhere import (
    Address,
    ClusterHome,
    DataRoot,
    DriverCpus,
    DryRun,
    Exclude,
    Include,
    WorkingDir,
    demand_local,
    submit_elsewhere,
)
from orchestrator.cli.words import Emulate, Home, Json, RunName, Runs, Words, flags, split_words
from orchestrator.errors import ConfigError

__all__ = ["register"]

Wait: TypeAlias = Annotated[
    bool, typer.Option("--wait", help="Follow the runs to their end; exit with their code.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("serve", _serve),
        ("submit", _submit),
        ("wait", _wait),
        ("rerun", _rerun),
        ("queue", _queue),
        ("events", _events),
    ):
        app.command(name)(command)


def _serve(  # noqa: PLR0913, PLR0917 - typer: an argument an option
    emulate: Emulate = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Drive a Ray that runs: auto, or HOST:PORT.")
    ] = None,
    home: Home = None,
    background: Annotated[
        bool, typer.Option("--background", help="Start it detached; return when it has nodes.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Ask it to leave: runs save first, and go on later.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="With --stop: at once.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how it is; 3: none runs.")] = False,
    as_json: Json = False,
    expected: Annotated[str | None, typer.Option("--expect", hidden=True)] = None,
) -> int:
    """Be the driver of the store until asked to leave: trains whatever is submitted."""
    if background + stop + status > 1 or (now and not stop):
        raise ConfigError(
            "--background, --stop and --status exclude each other, and --now is for --stop",
            code="E1030",
            fix=("see: orc serve --help",),
        )
    from orchestrator.client.access import Client
    from orchestrator.console import service

    words = flags(emulate, None)
    if address is not None:
        words.append(f"cluster.address={address}")
    if stop:
        return service.stop_service(Client(home), now=now, as_json=as_json)
    if status:
        return service.show_service(Client(home), as_json=as_json)
    if background:
        given = {"--emulate-gpus": emulate, "--address": address, "--home": home}
        own = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
        return service.start_service(Client(home), own, as_json=as_json)
    from jobs.serve import serve

    return serve(words, home=home, expected=expected)


def _submit(  # noqa: PLR0913, PLR0917 - as `_serve`
    words: Words = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The same key for the same: asked once.")
    ] = None,
    wait: Wait = False,
    runs: Runs = None,
    home: Home = None,
    as_json: Json = False,
    address: Address = None,
    dry_run: DryRun = False,
    working_dir: WorkingDir = None,
    data_root: DataRoot = None,
    cluster_home: ClusterHome = None,
    exclude: Exclude = None,
    include: Include = None,
    driver_cpus: DriverCpus = None,
) -> int:
    """Put every project of a config into the queue: orc submit CONFIG [key=value ...].

    With --address a Ray cluster trains it as a job, to which config and code are uploaded, and
    neither data nor runs. With --key and without CONFIG a job is found again.
    """
    if address is None:
        demand_local(dry_run, working_dir, data_root, cluster_home, exclude, include, driver_cpus)
    else:
        options = {
            "address": address,
            "key": key,
            "working_dir": working_dir or Path(),
            "data_root": data_root,
            "cluster_home": cluster_home,
            "excludes": tuple(exclude or ()),
            "includes": tuple(include or ()),
            "driver_cpus": driver_cpus,
        }
        return submit_elsewhere(
            words or [], runs, options, home=home, as_json=as_json, wait=wait, dry_run=dry_run
        )
    from jobs.submit import submit

    config, settings = split_words(words or [])
    settings += flags(None, runs)
    return submit(config, settings, home=home, key=key, is_waiting=wait, as_json=as_json)


def _wait(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Default: all unfinished.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.0, help="Seconds; then exit 124.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Follow runs to their end: exits 0, 1, 7 or 9 as they end, 75 when their driver dies."""
    from jobs.wait import wait

    return wait(names or [], home=home, timeout=timeout, as_json=as_json)


def _rerun(
    run: RunName,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changed settings.")
    ] = None,
    wait: Wait = False,
    runs: Runs = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Ask for a new run from the config of an earlier one, with changes."""
    from jobs.submit import rerun

    settings = [*(words or []), *flags(None, runs)]
    return rerun(run, settings, home=home, is_waiting=wait, as_json=as_json)


def _queue(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[set RUN priority=N | set QUEUE weight=W quota=Q | move RUN]"),
    ] = None,
    top: Annotated[bool, typer.Option("--top", help="With move: first of its priority.")] = False,
    bottom: Annotated[
        bool, typer.Option("--bottom", help="With move: last of its priority.")
    ] = False,
    before: Annotated[
        str | None, typer.Option("--before", help="With move: before this run.")
    ] = None,
    only: Annotated[str | None, typer.Option("--queue", help="Only this queue.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List runs that have not ended, in order; or change their order, or a queue's rule."""
    from orchestrator.client.access import Client
    from orchestrator.console import queue

    given = (("top", "" if top else None), ("bottom", "" if bottom else None), ("before", before))
    places = [(name, value) for name, value in given if value is not None]
    if words or places:
        queue.change(Client(home), words or [], places, as_json=as_json)
    else:
        queue.show_queue(Client(home), only=only, as_json=as_json)


def _events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    run: Annotated[str | None, typer.Option("--run", help="Only of this run.")] = None,
    since: Annotated[
        int, typer.Option("--since", min=0, help="Only after the event of this number.")
    ] = 0,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Print what was recorded: the journal, a line an event; with --json an object a line."""
    from orchestrator.client.access import Client
    from orchestrator.console.journal import show_events

    return show_events(Client(home), run, since=since, is_following=follow, as_json=as_json)
