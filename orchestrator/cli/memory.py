"""`orc memory ...`: measured peaks, settings that were tried, and measuring one project here."""

from typing import Annotated

import typer

from orchestrator.cli.words import Emulate, Home, Json, Words, flags, split_words

__all__ = ["memory_app"]

memory_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measured memory.")


@memory_app.command("book")
def _book(home: Home = None, as_json: Json = False) -> int:
    """Show the measured peaks of every attempt, beside what was predicted."""
    from jobs.plan import book

    return book(home=home, as_json=as_json)


@memory_app.command("choices")
def _choices(
    forget: Annotated[
        str | None, typer.Option("--forget", help="First forget those of this model.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Show the settings that runs with `auto` have tried, and what each answer holds for."""
    from jobs.plan import choices

    return choices(forget=forget, home=home, as_json=as_json)


@memory_app.command("profile")
def _profile(
    words: Words = None,
    steps: Annotated[int, typer.Option(min=3, max=1000, help="Steps to watch.")] = 5,
    emulate: Emulate = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Train a few steps of each project on the first card here, validate, record the peaks."""
    from jobs.profile import profile

    path, settings = split_words(words or [])
    return profile(
        path, [*settings, *flags(emulate, None)], steps=steps, home=home, as_json=as_json
    )
