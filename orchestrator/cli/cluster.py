"""`orc up`, `orc down`: their options, nothing else."""

from typing import Annotated

import typer

from orchestrator.cli.words import Emulate, Home, Json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(_up)
    app.command("down")(_down)


def _up(  # noqa: PLR0913, PLR0917 - typer: an argument an option
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="HEAD:PORT", help="Join this head instead of being one."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="IP", help="This machine's address for others; loopback."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Default: free.")] = None,
    dashboard_port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="Of the job server. Default: free.")
    ] = None,
    emulate: Emulate = None,
    num_cpus: Annotated[
        int | None, typer.Option("--cpus", min=1, help="CPUs that runs may use. Default: all.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", metavar="KEY=VALUE", help="Of its nodes: zone=a,disk=ssd."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Say what runs; 3: nothing.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Start a Ray that stays on this machine, with a token, and one Ray node a kind of card.

    A worker needs the head's token: copy the file that `orc up` names there, mode 0600, and set
    RAY_AUTH_TOKEN_PATH to the copy.
    """
    from orchestrator.client.access import Client
    from orchestrator.console import cluster

    if status:
        return cluster.show_up(Client(home).home, as_json=as_json)
    from jobs.up import up

    return up(
        home=home,
        emulate=emulate,
        num_cpus=num_cpus,
        where=(address, host, port, dashboard_port),
        as_json=as_json,
        labels=labels or (),
    )


def _down(
    now: Annotated[
        bool, typer.Option("--now", help="Also while a driver trains; its epochs are repeated.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """End the Ray that orc up started on this machine, and nothing else."""
    from orchestrator.client.access import Client
    from orchestrator.console import cluster

    return cluster.bring_down(Client(home), now=now, as_json=as_json)
