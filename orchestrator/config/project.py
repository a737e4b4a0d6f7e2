"""One project of a config: its merged values checked and turned into the template of a run."""

import os
import re
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.config.model import (
    ClusterModel,
    DdpModel,
    FoldsModel,
    MemoryModel,
    ProjectModel,
    ResourcesModel,
    ScheduleModel,
)
from orchestrator.config.node_types import NodeTypeModel
from orchestrator.config.retry import RetryModel
from orchestrator.config.rules import (
    TIMM_PREFIX,
    Place,
    block_options,
    contradictions,
    option_problems,
    own_options,
    trainer_of,
)
from orchestrator.config.types import MADE, Fitting, Folds, Project, Setting
from orchestrator.config.words import Problem, path_in, problems_of
from orchestrator.config.yaml import KeyPath
from orchestrator.plan.budget import Headroom
from orchestrator.plan.choose import Ladder
from orchestrator.plan.ladder import Rung
from orchestrator.types import DeviceKind, RetryBudget, RunId, RunSpec, TrainSettings

__all__ = ["build_project", "known_beside", "name_from", "resolve_path"]

_KEYS = frozenset(ProjectModel.model_fields)
_BLOCK_KEYS: dict[KeyPath, frozenset[str]] = {
    ("cluster",): frozenset(ClusterModel.model_fields),
    ("resources",): frozenset(ResourcesModel.model_fields),
    ("memory",): frozenset(MemoryModel.model_fields),
    ("schedule",): frozenset(ScheduleModel.model_fields),
    ("ddp",): frozenset(DdpModel.model_fields),
    ("folds",): frozenset(FoldsModel.model_fields),
    ("schedule", "retry"): frozenset(RetryModel.model_fields),
}


def known_beside(path: KeyPath) -> Collection[str]:
    """Keys that may stand where `path` stands."""
    if path[:2] == ("cluster", "node_types") and len(path) > 3:
        return NodeTypeModel.model_fields
    return _BLOCK_KEYS.get(path[:-1], _KEYS)


def name_from(text: str) -> str:
    """A project name made from a file's or a model's name."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(text).name.rsplit(".", 1)[0].lower())
    return re.sub(r"\.{2,}", ".", stem).strip(".-_")[:63] or "project"


def build_project(place: Place, folder: Path) -> tuple[Project | None, list[Problem]]:
    """Check one project's merged values.

    Args:
        place: The values, with the place of each.
        folder: The folder of the config file, against which relative paths are resolved.

    Returns:
        The project, or None with the problems found.
    """
    values = {key: value for key, value in place.layer.values().items() if key != "stages"}
    try:
        model = ProjectModel.model_validate(values)
        whole = model if place.whole is None else ProjectModel.model_validate(place.whole.values())
    except ValidationError as error:
        problems = problems_of(error.errors(include_url=False), place.of, known_beside)
        return None, problems + option_problems(place, values)
    problems = option_problems(place, values) + contradictions(place, model)
    if problems:
        return None, problems
    return _project(place, model, whole, folder), []


def _project(place: Place, model: ProjectModel, whole: ProjectModel, folder: Path) -> Project:
    trainer = trainer_of(model.model, model.trainer)
    is_classifier = trainer == "timm" or "-cls" in model.model
    settings = TrainSettings(
        model=resolve_path(model.model, folder),
        data=resolve_path(model.data, folder),
        imgsz=model.imgsz or (224 if is_classifier else 640),
        epochs=model.epochs,
        amp=model.amp,
        optimizer=model.optimizer,
        lr0=model.lr0,
        patience=model.patience,
        workers=8 if model.workers == "auto" else model.workers,
        cache="false" if model.cache == "auto" else model.cache,
        seed=model.seed,
        options=block_options(model) | own_options(model),
    )
    return Project(
        name=model.name,
        template=_template(model, trainer, settings),
        where=place.where,
        resolved=_resolved(whole, settings, _folds(model, folder)),
        settings=_settings(place, model),
        fitting=_fitting(model),
        stage=place.stage,
        folds=_folds(model, folder),
    )


def _folds(model: ProjectModel, folder: Path) -> Folds | None:
    if model.folds is None:
        return None
    by = model.folds.by
    is_file = by is not None and by.lower().endswith(".csv")
    return Folds(
        k=model.folds.k,
        by=resolve_path(by, folder) if by is not None and is_file else by,
        seed=model.folds.seed,
        stratify=model.folds.stratify,
    )


def _fitting(model: ProjectModel) -> Fitting:
    kept = model.resources.headroom
    return Fitting(
        is_predicted=model.memory.predict,
        headroom=Headroom(
            num_bytes=kept if isinstance(kept, int) else None,
            fraction=kept if isinstance(kept, float) else None,
        ),
        ladder=Ladder(
            rungs=tuple(Rung(name) for name in model.memory.ladder),
            least_imgsz=model.memory.least_imgsz,
        ),
        is_cpus_auto=model.resources.cpus == "auto",
    )


def _template(model: ProjectModel, trainer: str, settings: TrainSettings) -> RunSpec:
    is_cpu = model.device == "cpu"
    cpus = None if model.resources.cpus == "auto" else model.resources.cpus
    least, most = model.resources.width
    return RunSpec(
        run_id=RunId(""),
        project=model.name,
        trainer=trainer,
        settings=settings,
        effective_batch=model.batch,
        folder="",
        device=DeviceKind(model.device),
        num_gpus=most,
        min_gpus=least if least < most else None,
        is_on_one_node=model.resources.nodes == 1,
        memory_bytes=model.resources.memory,
        micro_batch=model.micro_batch,
        gpu_types=model.resources.gpu_type,
        labels=dict(sorted(model.resources.labels.items())),
        num_cpus=(1.0 if is_cpu else 0.0) if cpus is None else cpus,
        host_bytes=model.resources.ram or 0,
        queue=model.schedule.queue,
        priority=model.schedule.priority,
        retry=RetryBudget(**model.schedule.retry.model_dump()),
        max_duration_seconds=model.schedule.max_duration,
        hang_seconds=model.schedule.hang_after,
    )


def resolve_path(text: str, folder: Path) -> str:
    """The absolute path of an existing file, seen from the config's folder, then from here.

    Where a job runs, what was uploaded holds no data: then `ORC_DATA_ROOT` is the folder that
    corresponds to "here".
    """
    if text.startswith((MADE, TIMM_PREFIX)) or "://" in text:
        return text
    path = Path(text).expanduser()
    for base in (folder, Path.cwd()):
        if (base / path).exists():
            return str((base / path).resolve())
    for base in _elsewhere(folder):
        found = Path(os.path.normpath(base / path))  # the config's own folder is not there
        if found.exists():
            return str(found)
    return text


def _elsewhere(folder: Path) -> tuple[Path, ...]:
    """Below ORC_DATA_ROOT what corresponds to the config's folder and to here."""
    root = os.environ.get("ORC_DATA_ROOT")
    if not root:
        return ()
    here = Path.cwd()
    within = folder.relative_to(here) if folder.is_relative_to(here) else Path()
    return (Path(root) / within, Path(root))


def _resolved(model: ProjectModel, settings: TrainSettings, folds: Folds | None) -> dict[str, Any]:
    """The block that, run again, gives the same run, or all runs of the project."""
    block = _plain(model) | {"model": settings.model, "data": settings.data}
    if folds is not None:
        block["folds"] = {k: v for k, v in asdict(folds).items() if v is not None}
    if not block.pop("stages"):
        block["imgsz"] = settings.imgsz
    else:
        block["stages"] = model.stages
    return {key: value for key, value in block.items() if value is not None}


def _plain(model: BaseModel) -> dict[str, Any]:
    values = model.model_dump(mode="json")
    resources = values.get("resources", {})
    for key in ("memory", "headroom", "ram"):
        if isinstance(resources.get(key), int):
            resources[key] = _size(resources[key])
    return values


def _size(num_bytes: int) -> str:
    """Bytes in the largest unit that says them exactly."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if num_bytes % (1 << power) == 0:
            return f"{num_bytes >> power}{unit}"
    return f"{num_bytes}B"


def _settings(place: Place, model: ProjectModel) -> tuple[Setting, ...]:
    rows = []
    for path, value in _flat(_plain(model), ()):
        if path == ("stages",):
            continue  # each stage has rows of its own
        written = path in place.layer.leaves or path[:1] in place.layer.leaves
        origin = place.layer.origin(path) if written else None
        rows.append(
            Setting(
                path=path_in(place.base, path),
                value=value,
                origin=origin.where if origin else "default",
            )
        )
    return tuple(rows)


def _flat(values: dict[str, Any], at: KeyPath) -> list[tuple[KeyPath, Any]]:
    rows: list[tuple[KeyPath, Any]] = []
    for key, value in values.items():
        path = (*at, key)
        rows.extend(_flat(value, path) if isinstance(value, dict) else [(path, value)])
    return rows
