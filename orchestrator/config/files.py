"""The config files themselves: found, read, and their top level checked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.model import ProjectModel
from orchestrator.config.words import Problem, raise_problems, unknown_key
from orchestrator.config.yaml import MAX_BYTES, Document, read_yaml, shown
from orchestrator.errors import ConfigError, NotFoundError

__all__ = ["check_top", "read_file", "user_config_path", "user_document"]

_TOP = frozenset({"cluster", "defaults", "projects", "runs"})


def user_config_path(environment: Mapping[str, str] | None = None) -> Path:
    """Where the user's own config is looked for; it need not exist."""
    variables = os.environ if environment is None else environment
    if named := variables.get("ORC_CONFIG"):
        return Path(named)
    import platformdirs

    return platformdirs.user_config_path("orchestrator") / "config.yaml"


def user_document(variables: Mapping[str, str]) -> Document:
    """The user's own config, which may hold `cluster`, `defaults` and `runs`; empty if absent."""
    path = user_config_path(variables)
    if not path.is_file():
        return Document(name=str(path), value={})
    document = read_file(path)
    top = check_top(document, allowed=_TOP - {"projects"})
    return Document(name=document.name, value=top, lines=document.lines)


def read_file(path: Path) -> Document:
    """Read a config file as plain values.

    Raises:
        ConfigError: It is too large, unreadable, or not the YAML of a config.
        NotFoundError: E5001, there is no such file.
    """
    name = shown(str(path), 200)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{name} is larger than 1 MiB", code="E1002", fix=("split it",))
        return read_yaml(path.read_text("utf-8"), name)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} is not text in UTF-8", code="E1001", fix=("save it as UTF-8",)
        ) from error
    except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL in the path
        raise NotFoundError(
            f"there is no config file {name}",
            code="E5001",
            fix=("name an existing file, or give the project as words: model=... data=...",),
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{name} cannot be read: {error.strerror}", code="E1006", fix=("name a file",)
        ) from error


def check_top(document: Document, allowed: frozenset[str] = _TOP) -> dict[str, Any]:
    """The top level as a mapping; its blocks are of the right kind and its keys known.

    Raises:
        ConfigError: E1010 or E1011 with the key's path and the nearest known ones.
    """
    top = {} if document.value is None else document.value
    if not isinstance(top, dict):
        raise ConfigError(
            f"{document.name} must be keys with values, not {shown(repr(top))}",
            code="E1011",
            fix=("begin with `projects:`, or with model: and data:",),
        )
    problems = []
    if "sweep" in top and "sweep" not in allowed:
        where = document.where(("sweep",))
        fix = f"orc sweep {document.name}, or take the block sweep out"
        raise_problems([Problem(f"this file describes a sweep ({where})", code="E1010", fix=fix)])
    if "projects" in top or "projects" not in allowed:
        problems = [_stray(document, key, allowed) for key in top if key not in allowed]
    for key, kind, words in (("defaults", dict, "a block of keys"), ("projects", list, "a list")):
        given = top.get(key)
        if given is not None and not isinstance(given, kind):
            where = document.where((key,))
            text = f"{key} must be {words}, not {shown(repr(given))} ({where})"
            problems.append(Problem(text, code="E1011"))
    if "projects" in top and top["projects"] is None:
        problems.append(Problem("projects is empty", code="E1012", fix="add a project"))
    raise_problems(problems)
    return top


def _stray(document: Document, key: str, allowed: frozenset[str]) -> Problem:
    if key in ProjectModel.model_fields:
        return Problem(
            f"{key} stands beside `projects` ({document.where((key,))})",
            code="E1010",
            fix=f"put {key} under `defaults:` or into a project",
        )
    return unknown_key(shown(key), document.where((key,)), key, allowed)
