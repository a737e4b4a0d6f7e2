"""YOLO models: found, and read without running code."""

import difflib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, DataError

__all__ = ["TASKS", "YoloModel", "find_model", "trainer_of"]

TASKS = ("detect", "segment", "pose", "obb", "classify")


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloModel:
    """Where a model comes from (weights, or an architecture) and the task that it is for."""

    path: str
    task: str
    architecture: Mapping[str, Any] = field(compare=False, default_factory=dict)  # to be copied


def trainer_of(task: str) -> Any:
    """Ultralytics' own trainer class for one of `TASKS`."""
    from ultralytics.models import yolo

    return {
        "detect": yolo.detect.DetectionTrainer,
        "segment": yolo.segment.SegmentationTrainer,
        "pose": yolo.pose.PoseTrainer,
        "obb": yolo.obb.OBBTrainer,
        "classify": yolo.classify.ClassificationTrainer,
    }[task]


def find_model(name: str) -> YoloModel:
    """Find weights (`*.pt`) on this machine, or an architecture (`yolo11n.yaml`).

    Call it inside `yolo_apart.apart`: weights are then read with an allow-list of classes.

    Raises:
        DataError: E3220 no such weights, E3221 not weights that can be read safely.
        ConfigError: E1115 no such architecture, E1116 a task or kind of model that is not trained.
    """
    if name.lower().endswith(".pt"):
        return _weights(name)
    if name.lower().endswith((".yaml", ".yml")):
        return _architecture(name)
    raise ConfigError(
        f'"{name}" is neither weights nor an architecture',
        code="E1115",
        fix=(
            f"model: {name}.yaml to train from scratch",
            f"model: {name}.pt, a file that you have",
        ),
    )


def _weights(name: str) -> YoloModel:
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"the weights {name} do not exist",
            code="E3220",
            why=(f"looked for {path.absolute()}", "no weights are ever downloaded"),
            fix=(
                "fetch the file and name its path",
                f"model: {path.stem}.yaml to train from scratch",
            ),
        )
    stat = path.stat()
    return _read_weights(str(path.absolute()), name, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=16)  # trials that follow each other in a process begin with the same weights
def _read_weights(path: str, name: str, state: tuple[int, ...]) -> YoloModel:
    """Read a file of weights; `state` changes when it does."""
    del state
    from ultralytics.nn.tasks import load_checkpoint

    try:
        model, _ = load_checkpoint(path)
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
        EOFError,
        OSError,
        ImportError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(
            f"{name} is not a file of YOLO weights",
            code="E3221",
            why=(str(error).splitlines()[0][:200] if str(error) else type(error).__name__,),
            fix=(
                "use weights that ultralytics has written, as .pt",
                "files that hold code or foreign classes are refused on purpose",
            ),
        ) from error
    _check_kind(model.model[-1]._get_name(), name)
    return YoloModel(path=path, task=_task(model.task, name), architecture=model.yaml)


def _architecture(name: str) -> YoloModel:
    import ultralytics
    from ultralytics.nn.tasks import guess_model_task, yaml_model_load

    try:
        # an address would be fetched: it is looked for as a file, and not found
        content = yaml_model_load(name.replace("://", "_"))
        head = str(content["head"][-1][-2])
    except FileNotFoundError as error:
        folder = Path(ultralytics.__file__).parent / "cfg" / "models"
        known = sorted({path.name for path in folder.rglob("*.yaml")})
        near = difflib.get_close_matches(name, known, n=3)
        raise ConfigError(
            f"there is no YOLO architecture {name}",
            code="E1115",
            fix=(f"such as: {', '.join(near or ['yolo11n.yaml', 'yolo26n.yaml'])}",),
        ) from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{name} does not describe a YOLO model", code="E3221", fix=("see yolo11.yaml",)
        ) from error
    _check_kind(head, name)
    task = _task(guess_model_task(content), name)
    return YoloModel(path=name, task=task, architecture=content)


def _check_kind(head: str, name: str) -> None:
    if head == "RTDETRDecoder" or head.startswith(("WorldDetect", "YOLOE")):
        raise ConfigError(
            f"{name} is not a model that is trained here",
            code="E1116",
            why=(f"its head is a {head}",),
            fix=(f"use a YOLO model for {', '.join(TASKS)}",),
        )


def _task(task: object, name: str) -> str:
    if task not in TASKS:
        raise ConfigError(
            f'{name} is for the task "{task}"',
            code="E1116",
            fix=(f"use a YOLO model for {', '.join(TASKS)}",),
        )
    return str(task)
