"""YAML -> pydantic (extra=forbid) -> frozen types; the only pydantic.

Precedence, later wins: built-in values, the user's config file (`ORC_CONFIG`, else the platform's
config folder), `defaults:` of the config, the project, the environment (`ORC_RUNS`, `ORC_ADDRESS`,
`ORC_EMULATE_GPUS`), `key=value` words for all projects, `NAME.key=value` words for one.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config.files import check_top, read_file, user_config_path, user_document
from orchestrator.config.layers import Layer, Origin, Override, layer_of, parse_overrides
from orchestrator.config.model import FileModel, ProjectModel
from orchestrator.config.project import build_project, known_beside, name_from
from orchestrator.config.rules import Place, card_problems
from orchestrator.config.types import Config, Project, Setting
from orchestrator.config.words import Problem, nearest, problems_of, raise_problems
from orchestrator.config.yaml import Document, KeyPath, path_text, read_yaml, shown
from orchestrator.errors import ConfigError

__all__ = [
    "Config",
    "Project",
    "Setting",
    "load_config",
    "load_shared",
    "schema",
    "user_config_path",
]

_SHARED = ("cluster", "runs")
_PROJECT_KEYS = frozenset(ProjectModel.model_fields)
_COMMAND_LINE = "command line"
_ENVIRONMENT: Mapping[str, KeyPath] = {
    "ORC_RUNS": ("runs",),
    "ORC_ADDRESS": ("cluster", "address"),
    "ORC_EMULATE_GPUS": ("cluster", "emulate"),
}


def load_config(
    path: Path | str | None,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read, merge and check a config; writes nothing and starts nothing.

    Args:
        path: The YAML file; None for a project given by `overrides` alone.
        overrides: `key=value`, `NAME.key=value`, `resources.memory=4GiB`, `cluster.emulate=[...]`.
        environment: Variables to read instead of the process's own.

    Raises:
        ConfigError: E10xx, naming the field's path, what was given, and the nearest valid key
            or the allowed range; every problem of the projects at once.
        NotFoundError: E5001, the file does not exist.
    """
    variables = os.environ if environment is None else environment
    words = parse_overrides(overrides)
    empty = Document(name=_COMMAND_LINE, value={})
    document = read_file(Path(path)) if path is not None else empty
    user = user_document(variables)
    top = check_top(document)
    folder = Path(path).resolve().parent if path is not None else Path.cwd()
    shared = _shared(user, document, variables, words)
    places = _places(user, document, [w for w in words if w.path[0] not in _SHARED])
    projects, problems = [], _shared_problems(shared)
    for place in places:
        project, found = build_project(place, folder)
        problems.extend(found)
        if project is not None:
            projects.append(project)
    problems.extend(_repeated(projects, document, "projects" in top))
    raise_problems(problems)
    return _config(document.name, folder, shared, projects)


def load_shared(
    overrides: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> Config:
    """What holds without any project: the cluster and the runs folder; raises as `load_config`."""
    variables = os.environ if environment is None else environment
    words = parse_overrides(overrides)
    empty = Document(name=_COMMAND_LINE, value={})
    shared = _shared(user_document(variables), empty, variables, words)
    raise_problems(_shared_problems(shared))
    return _config(empty.name, Path.cwd(), shared, ())


def schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors."""
    found = FileModel.model_json_schema()
    project = dict(found["$defs"]["ProjectModel"])
    project["properties"] = {**project["properties"], **found["properties"]}
    project.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **project,
        "$defs": found["$defs"],
        "title": "orchestrator config",
        "description": FileModel.__doc__,
    }


def _shared(
    user: Document, document: Document, variables: Mapping[str, str], words: Sequence[Override]
) -> Layer:
    """The blocks that belong to no project, every layer laid over the one below."""
    layer = Layer()
    for each in (user, document):
        values = each.value or {}
        layer = layer_of({k: values[k] for k in _SHARED if k in values}, each, ()).over(layer)
    for variable, path in _ENVIRONMENT.items():
        if text := variables.get(variable):
            is_list = path[-1] == "emulate" and not text.startswith("[")
            value = [part.strip() for part in text.split(",")] if is_list else text
            if text.startswith("["):
                value = read_yaml(text, variable).value
            layer.put(path, value, Origin(path=path_text(path), where=variable))
    for word in words:
        if word.path[0] in _SHARED:
            layer.put(word.path, word.value, _typed(word))
    return layer


def _typed(word: Override) -> Origin:
    return Origin(path=path_text(word.path), where=_COMMAND_LINE)


def _places(user: Document, document: Document, words: Sequence[Override]) -> list[Place]:
    """Every project's values, from the lowest layer to the highest."""
    top = document.value or {}
    base = layer_of((user.value or {}).get("defaults") or {}, user, ("defaults",))
    base = layer_of(top.get("defaults") or {}, document, ("defaults",)).over(base)
    blocks: list[tuple[KeyPath, object]]
    if "projects" in top:
        blocks = [(("projects", i), block) for i, block in enumerate(top["projects"])]
    else:
        alone = {k: v for k, v in top.items() if k not in (*_SHARED, "defaults")}
        blocks = [((), alone)] if alone or words else []
    if not blocks:
        raise ConfigError(
            f"{document.name} has no project",
            code="E1012",
            fix=("add `projects:` with a name, model and data each, or model: and data:",),
        )
    names = [block.get("name") for _, block in blocks if isinstance(block, dict)]
    targets = [(word, _target(word, names)) for word in words]
    _check_words(targets, [name for name in names if isinstance(name, str)])
    return [_place(base, document, at, block, targets) for at, block in blocks]


def _place(
    base: Layer,
    document: Document,
    at: KeyPath,
    block: object,
    words: Sequence[tuple[Override, str | None]],
) -> Place:
    where = document.where(at)
    if not isinstance(block, dict):
        raise ConfigError(
            f"{path_text(at)} must be a block of keys, not {shown(repr(block))} ({where})",
            code="E1011",
            fix=("write `- name: ...` with model: and data: below it",),
        )
    layer = layer_of(block, document, at).over(base)
    for word, target in words:
        if target is None:
            layer.put(word.path, word.value, _typed(word))
    for word, target in words:
        if target is not None and target == block.get("name"):
            layer.put(word.path[target.count(".") + 1 :], word.value, _typed(word))
    if not at and ("name",) not in layer.leaves:
        source = document.name if document.lines else str(layer.values().get("model"))
        layer.put(("name",), name_from(source), Origin(path="name", where=where))
    return Place(base=path_text(at), where=where, layer=layer)


def _target(word: Override, names: Sequence[object]) -> str | None:
    """The project that a `NAME.key=value` word is for; names may have dots, the longest wins."""
    key = ".".join(word.path)
    fitting = [n for n in names if isinstance(n, str) and key.startswith(f"{n}.")]
    return max(fitting, key=len, default=None)


def _check_words(words: Sequence[tuple[Override, str | None]], names: Sequence[str]) -> None:
    """A dotted word must begin with a block, or with the name of a project."""
    blocks = ("resources", "schedule", "memory")
    for word, target in words:
        first, key = shown(word.path[0]), shown(".".join(word.path))
        if first in ("projects", "defaults"):
            raise ConfigError(
                f"{key} cannot be set on the command line",
                code="E1017",
                fix=("write key=value for all projects, or NAME.key=value for one",),
            )
        if len(word.path) > 1 and first not in blocks and target is None:
            known = {*names, *blocks, *_PROJECT_KEYS}
            raise ConfigError(
                f"{key}: {first} is neither a project nor a block ({_COMMAND_LINE})",
                code="E1017",
                fix=(f"the nearest: {', '.join(nearest(first, known))}",),
            )


def _shared_problems(shared: Layer) -> list[Problem]:
    place = Place(base="", where="", layer=shared)
    try:
        model = FileModel.model_validate(shared.values())
    except ValidationError as error:
        return problems_of(error.errors(include_url=False), place.of, known_beside)
    return card_problems(place, ("cluster", "emulate"), model.cluster.emulate)


def _repeated(projects: Sequence[Project], document: Document, several: bool) -> list[Problem]:  # noqa: FBT001 - private, called once
    seen: dict[str, str] = {}
    problems = []
    for project in projects:
        if project.name in seen and several:
            problems.append(
                Problem(
                    f"the project name {project.name} is given twice: {seen[project.name]}"
                    f" and {project.where}",
                    code="E1014",
                    fix=f"name: {project.name}-2",
                )
            )
        seen.setdefault(project.name, project.where)
    return problems


def _config(source: str, folder: Path, shared: Layer, projects: Sequence[Project]) -> Config:
    model = FileModel.model_validate(shared.values())
    runs = Path(model.runs or "runs").expanduser()
    written = [
        Setting(path=path_text(path), value=value, origin=origin.where)
        for path, (value, origin) in shared.leaves.items()
    ]
    if model.runs is None:
        written.append(Setting(path="runs", value="runs", origin="default"))
    return Config(
        source=source,
        folder=folder,
        runs=runs if runs.is_absolute() else Path.cwd() / runs,
        projects=tuple(projects),
        emulate=model.cluster.emulate,
        address=model.cluster.address,
        settings=tuple(written),
    )
