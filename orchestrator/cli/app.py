"""The command `orc`: a thin face; prints help without importing ray, torch or the store."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import cluster, plan, service, simulate, sweep
from orchestrator.cli.config import config_app
from orchestrator.cli.elsewhere import Address
from orchestrator.cli.memory import memory_app
from orchestrator.cli.words import Emulate, Home, Json, RunName, Runs, Words, flags, split_words
from orchestrator.errors import ConfigError, OrchestratorError

__all__ = ["app", "main"]

app = typer.Typer(
    name="orc",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich costs 80 ms at every start and formats nothing that we need
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 failed, 2 config or usage, 3 not found, 4 no GPU,"
    " 5 can never be scheduled, 6 Ray unreachable, 7 some runs failed, 9 stopped,"
    " 75 the driver was lost (orc resume goes on), 124 timeout, 130 Ctrl-C.",
)
app.add_typer(config_app, name="config")
app.add_typer(memory_app, name="memory")
plan.register(app)
service.register(app)
cluster.register(app)
simulate.register(app)
sweep.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, and never lets a traceback through.

    Args:
        argv: The words after the command's name; None takes the process's own.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    words, verbose = _without_verbose(given)
    as_json = "--json" in words
    try:
        name = None if argv is None else "orc"
        code = app(words, prog_name=name, standalone_mode=False, obj=verbose)
        return code if isinstance(code, int) else 0
    except OrchestratorError as error:
        return _say_error(error, as_json=as_json, verbose=verbose)
    except typer.TyperException as error:
        return _say_error(_usage(error), as_json=as_json, verbose=verbose)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has left: nobody is there to be told
        return 0
    except Exception as error:  # the last line of defence: a bug becomes a report, not a page
        from orchestrator.client.access import default_home
        from orchestrator.console.say import show_crash

        home = _option(words, "--home")
        folder = Path(home) if home else default_home()
        return show_crash(error, folder, as_json=as_json, verbose=verbose)


def _without_verbose(words: Sequence[str]) -> tuple[list[str], bool]:
    """`-v` may stand anywhere."""
    flags = ("-v", "--verbose")
    return [word for word in words if word not in flags], any(word in flags for word in words)


def _option(words: Sequence[str], name: str) -> str | None:
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            return value
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _say_error(error: OrchestratorError, *, as_json: bool, verbose: bool) -> int:
    from orchestrator.console.say import show_error

    return show_error(error, as_json=as_json, verbose=verbose)


def _usage(error: typer.TyperException) -> ConfigError:
    text = getattr(error, "format_message", lambda: str(error))()
    return ConfigError(
        text.rstrip(".") or "no command was given", code="E1030", fix=("see: orc --help",)
    )


def _version(wanted: bool) -> None:
    if wanted:
        from orchestrator import __version__
        from orchestrator.console.say import emit

        emit(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    _verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tracebacks after error messages.")
    ] = False,
) -> None:
    """Train many YOLO detectors and timm classifiers at once on GPUs of mixed size."""


@app.command("train")
def _train(
    words: Words = None,
    emulate: Emulate = None,
    runs: Runs = None,
    home: Home = None,
    hand_over: Annotated[
        bool, typer.Option("--hand-over", help="Let the driver that runs train it; follow it.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Train every project of a config to its end: orc train CONFIG [key=value ...]."""
    from jobs.train import train as job

    config, settings = split_words(words or [])
    settings += flags(emulate, runs)
    return job(config, settings, home=home, to_driver=hand_over, as_json=as_json)


@app.command("resume")
def _resume(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Default: all unfinished.")
    ] = None,
    emulate: Emulate = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Go on with what is unfinished: after a crash, a stop, a failure."""
    from jobs.train import resume as job

    return job(names or [], flags(emulate, None), home=home, as_json=as_json)


@app.command("ls")
def _ls(
    as_json: Json = False,
    home: Home = None,
    project: Annotated[str | None, typer.Option(help="Only this project's runs.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
) -> None:
    """List runs."""
    from orchestrator.console import read

    read.list_runs(_client(home), as_json=as_json, project=project, limit=limit)


@app.command("show")
def _show(run: RunName, as_json: Json = False, home: Home = None) -> None:
    """Show one run with its epochs, or all folds and stages of a project that has several."""
    from orchestrator.console import read, series

    if not series.show_series(_client(home), run, as_json=as_json):
        read.show(_client(home).show(run), as_json=as_json)


@app.command("logs")
def _logs(
    run: RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")
    ] = False,
    home: Home = None,
) -> None:
    """Print a run's log."""
    from orchestrator.console import read

    read.show_logs(_client(home), run, is_following=follow)


@app.command("stop")
def _stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="At once; the epoch is lost.")] = False,
    as_json: Json = False,
    home: Home = None,
    address: Address = None,
) -> None:
    """Ask a run to stop: after its epoch and its checkpoint, or at once; or a job at an address."""
    if address is not None:
        from jobs.remote import stop_remote

        stop_remote(run, address, home=home, as_json=as_json)
        return
    from orchestrator.console import read

    read.stop(_client(home), run, now=now, as_json=as_json)


@app.command("explain")
def _explain(run: RunName, as_json: Json = False, home: Home = None) -> int:
    """Say why a run is where it is, with numbers and remedies."""
    from orchestrator.console import read

    return read.explain(_client(home).explain(run), as_json=as_json)


@app.command("gpus")
def _gpus(
    words: Annotated[list[str] | None, typer.Argument(metavar="[mend NODE[:CARD]]")] = None,
    emulate: Emulate = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the cards of this machine and of the driver; or say that one is mended."""
    from orchestrator.console import gpus

    if words:
        gpus.mend_place(_client(home), words, as_json=as_json)
    else:
        gpus.gpus(emulate, _client(home), as_json=as_json)


def _client(home: Path | None) -> Any:
    from orchestrator.client.access import Client

    return Client(home)
