"""Words of the command line that several commands share, and how they become a config."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from orchestrator.errors import ConfigError

__all__ = ["Emulate", "Home", "Json", "RunName", "Runs", "Words", "flags", "split_words"]

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON (schema_version 1).")]
Home: TypeAlias = Annotated[
    Path | None, typer.Option("--home", help="Folder of the store; default: ORC_HOME.")
]
Runs: TypeAlias = Annotated[
    Path | None, typer.Option("--runs", help="Folder of run folders; default: ./runs.")
]
Emulate: TypeAlias = Annotated[
    str | None,
    typer.Option("--emulate-gpus", help='Emulate cards, such as "RTX 2060 6GB,RTX 4090".'),
]
Words: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A config file, then settings."),
]
RunName: TypeAlias = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or enough of it; last.")
]


def split_words(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The config file, if the first word is one, and the `key=value` words."""
    rest = list(words)
    path: Path | None = None
    if rest and ("=" not in rest[0] or Path(rest[0]).is_file()):
        path = Path(rest.pop(0))
    elif not rest and Path("orchestrator.yaml").is_file():
        path = Path("orchestrator.yaml")
    if path is None and not rest:
        raise ConfigError(
            "no config was given",
            code="E1030",
            fix=(
                "orc train CONFIG, or orc train model=yolo11n.yaml data=made:digits-detect",
                "or keep an orchestrator.yaml in this folder",
            ),
        )
    return path, rest


def flags(emulate: str | None, runs: Path | None) -> list[str]:
    """Options as `key=value` words, which win over every other word because they stand last."""
    words = []
    if emulate is not None:
        cards = [name.strip() for name in emulate.split(",") if name.strip()]
        words.append(f"cluster.emulate={json.dumps(cards)}")
    if runs is not None:
        words.append(f"runs={json.dumps(str(runs))}")
    return words
