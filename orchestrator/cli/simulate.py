"""`orc simulate`: its options; what it does is in `jobs.simulate` and `jobs.whatif`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.words import Json
from orchestrator.errors import ConfigError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(_simulate)


def _simulate(  # noqa: PLR0913, PLR0917 - typer: an argument an option
    workload: Annotated[
        Path,
        typer.Argument(help="A script (YAML), a job list (CSV), or a folder of measured jobs."),
    ],
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="Nodes (YAML); default: made to fit.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="A policy by name, or several with commas; may be repeated."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all chance; replaces the file's.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many jobs only.")] = None,
    part: Annotated[str | None, typer.Option(help="Which list, where a file has several.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out what cannot be read or never run.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison: a .png or .svg.")] = None,
    as_json: Json = False,
) -> int:
    """Say what would happen: runs on a simulated cluster, under the scheduler's policies."""
    from jobs import simulate, whatif

    names = [name.strip() for words in policy or () for name in words.split(",") if name.strip()]
    if policy and not names:
        raise ConfigError("--policy names no policy", code="E1204", fix=("--policy queue",))
    question = whatif.Question(
        workload=workload,
        cluster=cluster,
        policies=names,
        part=part,
        seed=seed,
        limit=limit,
        skip_broken=skip_broken,
        plot=plot,
    )
    is_compared = bool(names) or any(each is not None for each in (cluster, limit, plot))
    if whatif.is_script(workload) and not is_compared:
        return simulate.main(str(workload), seed=seed, json=as_json)
    return whatif.main(question, json=as_json)
