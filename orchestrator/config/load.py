"""YAML -> pydantic (extra=forbid) -> frozen types; the only pydantic.

Precedence, later wins: built-in values, the user's config file (`ORC_CONFIG`, else the platform's
config folder), `defaults:` of the config, the project, the environment (`ORC_RUNS`, `ORC_ADDRESS`,
`ORC_EMULATE_GPUS`), `key=value` words for all projects, `NAME.key=value` words for one.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.address import is_address
from orchestrator.config.address import checked_address
from orchestrator.config.files import check_top, read_file, user_config_path, user_document
from orchestrator.config.layers import Layer, Origin, Override, layer_of, parse_overrides
from orchestrator.config.model import FileModel
from orchestrator.config.node_rules import node_type_problems
from orchestrator.config.node_types import node_types_of
from orchestrator.config.places import COMMAND_LINE, SHARED, places_of, typed_origin
from orchestrator.config.project import build_project, known_beside
from orchestrator.config.rules import Place, card_problems
from orchestrator.config.types import Config, Project, Setting
from orchestrator.config.words import Problem, problems_of, raise_problems
from orchestrator.config.yaml import Document, KeyPath, path_text, read_yaml
from orchestrator.types import QueueRule

__all__ = [
    "Config",
    "Project",
    "Setting",
    "load_config",
    "load_document",
    "load_shared",
    "schema",
    "user_config_path",
]

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
    empty = Document(name=COMMAND_LINE, value={})
    document = read_file(Path(path)) if path is not None else empty
    folder = Path(path).resolve().parent if path is not None else Path.cwd()
    return load_document(document, folder, overrides, environment=environment)


def load_document(
    document: Document,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """A config that is read already, whose relative paths are seen from `folder`.

    Raises:
        ConfigError: As `load_config`.
    """
    variables = os.environ if environment is None else environment
    words = parse_overrides(overrides)
    user = user_document(variables)
    top = check_top(document)
    shared = _shared(user, document, variables, words)
    places, wrong = places_of(user, document, [w for w in words if w.path[0] not in SHARED])
    projects, problems = [], _shared_problems(shared)
    problems.extend(wrong)
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
    empty = Document(name=COMMAND_LINE, value={})
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
        layer = layer_of({k: values[k] for k in SHARED if k in values}, each, ()).over(layer)
    for variable, path in _ENVIRONMENT.items():
        if text := variables.get(variable):
            is_list = path[-1] == "emulate" and not text.startswith("[")
            value = [part.strip() for part in text.split(",")] if is_list else text
            if text.startswith("["):
                value = read_yaml(text, variable).value
            layer.put(path, value, Origin(path=path_text(path), where=variable))
    for word in words:
        if word.path[0] in SHARED:
            layer.put(word.path, word.value, typed_origin(word))
    return layer


def _shared_problems(shared: Layer) -> list[Problem]:
    place = Place(base="", where="", layer=shared)
    try:
        model = FileModel.model_validate(shared.values())
    except ValidationError as error:
        return problems_of(error.errors(include_url=False), place.of, known_beside)
    found = card_problems(place, ("cluster", "emulate"), model.cluster.emulate)
    return found + node_type_problems(place, model.cluster.node_types)


def _repeated(projects: Sequence[Project], document: Document, several: bool) -> list[Problem]:  # noqa: FBT001 - private, called once
    seen: dict[str, str] = {}
    problems = []
    for project in projects:
        if project.stage is not None and project.stage.number > 1:
            continue
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
    storage = checked_address(model.runs) if model.runs and is_address(model.runs) else ""
    runs = Path("runs" if storage or not model.runs else model.runs).expanduser()
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
        storage=storage,
        projects=tuple(
            replace(each, template=replace(each.template, storage=storage)) for each in projects
        ),
        emulate=model.cluster.emulate,
        address=model.cluster.address,
        labels=dict(sorted(model.cluster.labels.items())),
        policy=model.cluster.policy,
        node_types=node_types_of(model.cluster.node_types),
        launcher=_near(folder, model.cluster.launcher),
        node_wait=model.cluster.node_wait,
        node_late=model.cluster.node_late,
        queues=tuple(
            QueueRule(name=name, weight=rule.weight, max_gpus=rule.gpus)
            for name, rule in model.cluster.queues.items()
        ),
        settings=tuple(written),
    )


def _near(folder: Path, name: str | None) -> Path | None:
    """A path of the config, from the config's folder."""
    return None if name is None else folder / Path(name).expanduser()
