"""`orc config ...`: its commands; what they do is in `cli.settings`."""

from typing import Annotated

import typer

from orchestrator.cli.words import Json, Words, split_words

__all__ = ["config_app"]

config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at configs.")


@config_app.command("show")
def _show(
    words: Words = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where values came from.")] = False,
    as_json: Json = False,
) -> None:
    """Print the resolved config."""
    from orchestrator.cli import settings

    settings.show(*split_words(words or []), with_origin=origin, as_json=as_json)


@config_app.command("schema")
def _schema() -> None:
    """Print the JSON schema of a config, for editors."""
    from orchestrator.cli import settings

    settings.print_schema()


@config_app.command("validate")
def _validate(words: Words = None, as_json: Json = False) -> None:
    """Check a config and the files it names; starts nothing."""
    from orchestrator.cli import settings

    settings.validate(*split_words(words or []), as_json=as_json)


@config_app.command("path")
def _path(as_json: Json = False) -> None:
    """Print where configs and the store are looked for."""
    from orchestrator.cli import settings

    settings.print_paths(as_json=as_json)
