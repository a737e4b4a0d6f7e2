"""The stages of a project: blocks of keys laid over those of the project, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.fields import name_given
from orchestrator.config.layers import Layer, Override, layer_of
from orchestrator.config.types import Stage
from orchestrator.config.words import Problem
from orchestrator.config.yaml import Document, KeyPath, path_text, shown

__all__ = ["StageLayer", "read_stages", "without_typed"]

MOST = 100
# What the weights that are handed on depend on, and what only a whole project has.
_FIXED = ("model", "data", "trainer", "folds", "stages", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLayer:
    """One stage: which it is, where it stands, and its keys alone."""

    stage: Stage
    at: KeyPath
    layer: Layer


def read_stages(
    value: Any, document: Document, at: KeyPath
) -> tuple[list[StageLayer], list[Problem]]:
    """Read `stages:`, which stands at `at` in a document.

    Returns:
        The stages, and what is wrong with the list, with names or with keys that no stage has.
    """
    where = document.where(at)
    if not isinstance(value, list) or not 1 <= len(value) <= MOST:
        text = f"{path_text(at)} must be a list of 1 to {MOST} blocks of keys ({where})"
        return [], [Problem(text, code="E1011", fix="stages: [{name: small, imgsz: 320}, {}]")]
    found, problems, seen = [], [], dict[str, str]()
    for number, block in enumerate(value, 1):
        own = (*at, number - 1)
        place = document.where(own)
        if not isinstance(block, dict):
            text = f"{path_text(own)} must be a block of keys, not {shown(repr(block))} ({place})"
            problems.append(Problem(text, code="E1011", fix="- {name: small, imgsz: 320}"))
            continue
        name, wrong = _name(block, number, own, place)
        problems.extend(wrong)
        problems.extend(_fixed(block, document, own))
        if name in seen:
            text = f"the stage name {name} is given twice: {seen[name]} and {place}"
            problems.append(Problem(text, code="E1014", fix=f"name: {name}-{number}"))
        seen.setdefault(name, place)
        keys = {key: each for key, each in block.items() if key != "name"}
        stage = Stage(number=number, count=len(value), name=name)
        found.append(StageLayer(stage=stage, at=own, layer=layer_of(keys, document, own)))
    return found, problems


def without_typed(value: Any, words: Sequence[Override]) -> list[dict[str, Any]]:
    """The stages as they hold when words of the command line go before them."""
    typed = {word.path[0] for word in words}
    return [{key: each for key, each in block.items() if key not in typed} for block in value]


def _name(block: dict[str, Any], number: int, at: KeyPath, where: str) -> tuple[str, list[Problem]]:
    name = block.get("name", f"stage-{number}")
    try:
        name_given(name)
    except ValueError as error:
        text = f"{path_text((*at, 'name'))} {error}, not {shown(repr(name))} ({where})"
        return f"stage-{number}", [Problem(text, code="E1011", fix="name: small")]
    return str(name), []


def _fixed(block: dict[str, Any], document: Document, at: KeyPath) -> list[Problem]:
    return [
        Problem(
            f"{path_text((*at, key))} cannot differ between stages ({document.where((*at, key))})",
            code="E1019",
            fix=f"put {key} into the project; each stage goes on with the weights before it",
        )
        for key in block
        if key in _FIXED
    ]
