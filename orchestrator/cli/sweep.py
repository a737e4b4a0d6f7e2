"""`orc sweep CFG` and `orc sweep ls|show|stop|resume|best|export`: their options, nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.words import Emulate, Home, Json, Runs, flags, split_words
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.client.access import Client

__all__ = ["register"]

_NAMED = ("show", "stop", "resume", "best", "export")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What belongs to one verb only."""

    follow: bool
    importance: bool
    evaluator: str | None
    plots: Path | None
    trial: int | None
    write: Path | None
    study: str | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep")(_sweep)


def _sweep(  # noqa: PLR0913, PLR0917 - typer: an argument an option
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG [KEY=VALUE]... | ls | show NAME | stop NAME | resume NAME [CONFIG] |"
            " best NAME | export NAME",
            help="A config with a block `sweep`, then settings; or what to do with one.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="With show: as a live table, until it ends.")
    ] = False,
    importance: Annotated[
        bool, typer.Option("--importance", help="With show: how much each key decides.")
    ] = False,
    evaluator: Annotated[
        str | None,
        typer.Option("--evaluator", help="Of the importance: ped-anova (default) or fanova."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", help="With show: a folder for plots; their files are printed."),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", min=1, help="With best: this trial instead.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="With best: the file for its config.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", help="With export: an Optuna storage, sqlite:///FILE."),
    ] = None,
    emulate: Emulate = None,
    runs: Runs = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Search hyperparameters within the memory there is; or list, show, stop, resume sweeps."""
    from orchestrator.client.access import Client

    options = _Options(
        follow=follow,
        importance=importance,
        evaluator=evaluator,
        plots=plots,
        trial=trial,
        write=write,
        study=study,
    )
    return _do(list(words or []), options, Client(home), flags(emulate, runs), as_json=as_json)


def _do(
    given: list[str], options: _Options, client: "Client", extra: list[str], *, as_json: bool
) -> int:
    from jobs import sweep as job
    from orchestrator.console import sweeps

    verb = given[0] if given else ""
    _demand_fitting(verb, options)
    if verb == "ls" and len(given) == 1:
        return sweeps.list_sweeps(client, as_json=as_json)
    if verb not in _NAMED:
        path, settings = split_words(given)
        return job.sweep(path, [*settings, *extra], client, as_json=as_json)
    if len(given) < 2 or (verb != "resume" and len(given) > 2):
        raise ConfigError(
            f"orc sweep {verb} needs the name of a sweep",
            code="E1030",
            fix=(f"orc sweep {verb} NAME", "orc sweep ls lists them"),
        )
    if verb == "resume":
        path, settings = split_words(given[2:]) if given[2:] else (None, [])
        return job.resume(given[1], path, settings, client, as_json=as_json)
    return _tell(verb, given[1], options, client, as_json=as_json)


def _tell(verb: str, name: str, options: _Options, client: "Client", *, as_json: bool) -> int:
    from orchestrator.console import sweeps

    if verb == "show":
        return _show(client, name, options, as_json=as_json)
    if verb == "stop":
        return sweeps.stop_sweep(client, name, as_json=as_json)
    if verb == "export":
        return sweeps.export_sweep(client, name, study=options.study, as_json=as_json)
    trial, write = options.trial, options.write
    return sweeps.show_best(client, name, trial=trial, write=write, as_json=as_json)


def _show(client: "Client", name: str, options: _Options, *, as_json: bool) -> int:
    from orchestrator.console import sweeps
    from orchestrator.console.sweep_follow import follow_sweep

    is_more = options.importance or options.evaluator is not None or options.plots is not None
    if options.follow:
        code = follow_sweep(client, name, as_json=as_json)
        if not is_more or code == 130:
            return code
    wanted = options.importance or options.evaluator is not None
    evaluator = (options.evaluator or "ped-anova") if wanted else None
    return sweeps.show_sweep(
        client,
        name,
        as_json=as_json,
        wanted=sweeps.Wanted(evaluator=evaluator, plots=options.plots),
    )


def _demand_fitting(verb: str, options: _Options) -> None:
    """Refuse an option that means nothing to this verb: nothing is ignored."""
    belongs = {
        "follow": "show",
        "importance": "show",
        "evaluator": "show",
        "plots": "show",
        "trial": "best",
        "write": "best",
        "study": "export",
    }
    for option, owner in belongs.items():
        if getattr(options, option) and verb != owner:
            raise ConfigError(
                f"--{option} belongs to orc sweep {owner}",
                code="E1030",
                fix=(f"orc sweep {owner} NAME --{option}",),
            )
