"""From a config with a block `sweep:` to the definition of a sweep; every problem named."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config.files import read_file
from orchestrator.config.layers import parse_overrides
from orchestrator.config.load import Config, load_document
from orchestrator.config.yaml import Document, write_yaml
from orchestrator.errors import ConfigError
from orchestrator.sweep.block import read_block
from orchestrator.sweep.defaults import default_metric, default_mode, default_space
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.space import Dimension, Kind, Space, Values, is_active, settings_of
from orchestrator.types import Scalar

__all__ = ["config_of", "define", "load_sweep", "with_changes", "words_of"]


def load_sweep(
    config: Path | str | Mapping[str, Any], words: Sequence[str] = (), **given: Any
) -> Definition:
    """Read a sweep from a config file (or the same as a mapping) and check all of it.

    Args:
        config: With a block `sweep`, and one project.
        words: `key=value` over the project, `sweep.key=value` over the block.
        given: Keys of the block, from Python; a space of `Dimension`s too.

    Raises:
        ConfigError: E10xx; every key of the space is tried in the config at its ends.
        NotFoundError: E5001, the file does not exist.
    """
    document, folder = _document(config)
    top = dict(document.value or {})
    block = dict(top.pop("sweep", None) or {})
    own, rest = _split(words)
    block = {**block, **own, **{k: v for k, v in given.items() if v is not None}}
    bare = Document(name=document.name, value=top, lines=document.lines)
    return define(bare, folder, rest, block)


def define(
    document: Document, folder: Path, words: Sequence[str], block: Mapping[str, Any]
) -> Definition:
    """The definition of a block over a config; raises as `load_sweep`."""
    found = load_document(document, folder, words)
    name = _project_of(found, block)
    project = next(each for each in found.projects if each.name == name)
    template = project.template
    if project.stage is not None or project.folds is not None:
        raise ConfigError(
            f"project {name} has stages or folds; a sweep varies a single training",
            code="E1062",
            fix=("sweep one stage as a project of its own",),
        )
    only = dict(project.resolved)
    shared = {k: v for k, v in (document.value or {}).items() if k == "cluster"}
    metric = default_metric(template.trainer, template.settings.model)
    definition = read_block(
        block,
        Definition(
            name=f"{name}-sweep",
            metrics=(metric,),
            modes=(default_mode(metric),),
            space=default_space(template.trainer),
            config=write_yaml({**shared, "runs": found.runs_as_written, "projects": [only]}),
            folder=str(folder),
            project=name,
            epochs=template.settings.epochs,
            batch=template.effective_batch,
        ),
    )
    _check_space(definition)
    return definition


def config_of(definition: Definition, settings: Values) -> Config:
    """The config of a trial.

    Raises:
        ConfigError: E10xx, a value is not allowed.
    """
    from orchestrator.config.yaml import read_yaml

    document = read_yaml(definition.config, f"the sweep {definition.name}")
    own = dict(settings)
    if definition.gpus is not None:
        own["schedule.queue"] = definition.queue
    return load_document(document, Path(definition.folder), words_of(own), environment={})


def words_of(settings: Values) -> tuple[str, ...]:
    """Settings as `key=value` words."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _document(config: Path | str | Mapping[str, Any]) -> tuple[Document, Path]:
    if isinstance(config, Mapping):
        return Document(name="the config", value=dict(config)), Path.cwd()
    path = Path(config)
    return read_file(path), path.resolve().parent


def _split(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Words for the block `sweep`, as its keys, and the others as they are."""
    own: dict[str, Any] = {}
    rest = []
    for word, parsed in zip(words, parse_overrides(words), strict=True):
        if parsed.path[0] != "sweep" or len(parsed.path) == 1:
            rest.append(word)
        elif len(parsed.path) == 2:
            own[parsed.path[1]] = parsed.value
        else:
            raise ConfigError(
                f"{'.'.join(parsed.path)} cannot be set on the command line",
                code="E1017",
                fix=(f"sweep.{parsed.path[1]}={{...}} as a whole",),
            )
    return own, rest


def _project_of(config: Config, block: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(project.name for project in config.projects))
    wanted = block.get("project")
    if wanted in names:
        return str(wanted)
    if wanted is None and len(names) == 1:
        return names[0]
    raise ConfigError(
        "a sweep varies one project" + (f"; there is none called {wanted}" if wanted else ""),
        code="E1062",
        why=(f"there are: {', '.join(names)}",),
        fix=(f"sweep: {{project: {names[0]}}}",),
    )


def _check_space(definition: Definition) -> None:
    """Try every key at its ends in the config, so that no trial is the first to find it wrong."""
    space = definition.space
    if not space:
        raise ConfigError(
            "the space of the sweep is empty: there is nothing to choose",
            code="E1060",
            fix=("sweep: {space: {lr0: {loguniform: [0.0001, 0.01]}}}", "or leave space out"),
        )
    for key, dimension in space.items():
        for name in dimension.when:
            if name not in list(space)[: list(space).index(key)]:
                raise ConfigError(
                    f"sweep.space.{key}: when names {name}, which is not chosen before it",
                    code="E1060",
                    fix=(f"put {name} above {key} in the space",),
                )
        if "." in key and key.split(".")[0] not in ("resources", "memory", "schedule"):
            raise ConfigError(f"sweep.space.{key} is not a key of a config", code="E1010")
        for value in _ends(dimension):
            _try(definition, {**_first(space, key), key: value}, key)


def _first(space: Space, before: str) -> dict[str, Scalar]:
    """Values of the keys that another one depends on, so that it is active."""
    values: dict[str, Scalar] = {}
    wanted = space[before].when
    for key, dimension in space.items():
        if key == before:
            break
        if key in wanted:
            values[key] = wanted[key][0]
        elif is_active(dimension, values) and key == "batch":
            values[key] = _ends(dimension)[0]
    return values


def _ends(dimension: Dimension) -> tuple[Scalar, ...]:
    if dimension.kind is Kind.CHOICE:
        return dimension.options
    if dimension.kind is Kind.INTEGER:
        return int(dimension.low), int(dimension.high)
    return dimension.low, dimension.high


def _try(definition: Definition, values: Values, key: str) -> None:
    settings = settings_of(definition.space, values, definition.batch)
    try:
        config_of(definition, settings)
    except ConfigError as error:
        raise ConfigError(
            f"sweep.space.{key}: {error.what.replace('(command line)', '').strip()}",
            code=error.code,
            why=error.why,
            fix=error.fix,
        ) from error


def with_changes(old: Definition, new: Definition) -> Definition:
    """A sweep that goes on with what may change in it.

    Raises:
        ConfigError: E1061, something else has changed.
    """
    old.demand_same(new)
    return replace(old, trials=new.trials, max_concurrent=new.max_concurrent, gpus=new.gpus)
