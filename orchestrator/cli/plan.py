"""`orc plan` and `orc recommend`: their options; what they do is in `jobs.plan`."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from orchestrator.cli.words import Emulate, Home, Json, Words, flags, split_words

__all__ = ["register"]

Gpus: TypeAlias = Annotated[
    list[str] | None, typer.Option("--gpu", help="A card of the catalogue; may be repeated.")
]
Memory: TypeAlias = Annotated[
    str | None, typer.Option("--memory", help="A budget by hand, such as 8GiB.")
]
Every: TypeAlias = Annotated[bool, typer.Option("--all-gpus", help="Every card of the catalogue.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(_plan)
    app.command("recommend")(_recommend)


def _plan(  # noqa: PLR0913, PLR0917 - typer: an argument an option
    context: typer.Context,
    words: Words = None,
    gpu: Gpus = None,
    memory: Memory = None,
    every: Every = False,
    infer: Annotated[bool, typer.Option("--infer", help="The largest inference batch.")] = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write a config as planned for one card.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
    emulate: Emulate = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Predict the memory of a config: what fits where, how it is cut, why. Starts nothing."""
    from jobs.plan import Cards, plan

    path, settings = split_words(words or [])
    return plan(
        path,
        [*settings, *flags(emulate, None)],
        Cards(names=gpu or (), memory=memory, is_every=every),
        home=home,
        as_json=as_json,
        verbose=bool(context.obj),
        is_inference=infer,
        write=write,
        force=force,
    )


def _recommend(
    words: Words = None,
    gpu: Gpus = None,
    memory: Memory = None,
    every: Every = False,
    emulate: Emulate = None,
    home: Home = None,
    as_json: Json = False,
) -> int:
    """Recommend settings for a card, each with its reason; for a config's runs where given."""
    from jobs.plan import Cards, recommend

    has_config = bool(words) or Path("orchestrator.yaml").is_file()
    path, settings = split_words(words or []) if has_config else (None, [])
    return recommend(
        path,
        [*settings, *flags(emulate, None)],
        Cards(names=gpu or (), memory=memory, is_every=every),
        home=home,
        as_json=as_json,
    )
