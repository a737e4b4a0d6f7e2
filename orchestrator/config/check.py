"""Checks that need files: data sets, weights, names of networks; before anything starts."""

import difflib
import importlib.util
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config.options import known_models, read_data, scaled_like, without_scale
from orchestrator.config.rules import TIMM_PREFIX
from orchestrator.config.types import Project
from orchestrator.config.yaml import shown
from orchestrator.errors import ConfigError, DataError
from orchestrator.types import TrainSettings

__all__ = ["check_files"]

_WEIGHTS = frozenset({".pt", ".pth", ".safetensors"})
_EXTRA = {
    "yolo": ("ultralytics", 'pip install "orchestrator[yolo]"'),
    "timm": ("timm", "pip install timm"),
}


def check_files(projects: Sequence[Project]) -> None:
    """Check that the model and the data of every project are there and look like what they are.

    Reads headers and folder listings; imports neither torch nor a trainer's library, and opens
    nothing that could run code.

    Raises:
        DataError: E3001 data missing, E3003 weights missing, E3004 not a weights file, E3005
            unknown network, E3006 an address instead of a file; E31xx and E32xx of the trainer's
            own reader, when the data is not what the trainer needs.
        ConfigError: E1110, the trainer's library is not installed.
    """
    for project in projects:
        if project.template.trainer == "fake":
            continue
        if project.stage is not None and project.stage.number > 1:
            continue  # the model and the data are those of the first stage
        _check_library(project)
        _check_model(project, project.template.settings)
        if project.made is None:
            _check_data(project, project.template.settings)


def _check_library(project: Project) -> None:
    library, remedy = _EXTRA[project.template.trainer]
    if importlib.util.find_spec(library) is None:
        raise ConfigError(
            f"project {project.name} needs {library}, which is not installed",
            code="E1110",
            fix=(remedy,),
        )


def _check_model(project: Project, settings: TrainSettings) -> None:
    model = settings.model
    if "://" in model:
        raise _address(project, "model", model)
    if model.startswith(TIMM_PREFIX):
        _check_known(project, model.removeprefix(TIMM_PREFIX).split(".")[0], TIMM_PREFIX)
        return
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            _check_known(project, path.name, "")
    elif path.suffix in _WEIGHTS:
        _check_weights(project, path)
    else:
        raise DataError(
            f"project {project.name}: model {shown(model)} is neither a network nor weights",
            code="E3005",
            why=(project.where,),
            fix=("write yolo11n.yaml, the path of a .pt file, or timm/NAME",),
        )


def _check_known(project: Project, name: str, prefix: str) -> None:
    known = known_models("timm" if prefix else "yolo")
    plain = name if prefix else without_scale(name)
    if plain in known or not known:
        return
    close = difflib.get_close_matches(plain, sorted(known), n=3, cutoff=0.4)
    proposals = close if prefix else scaled_like(name, close)
    raise DataError(
        f"project {project.name}: there is no network {shown(prefix + name)}",
        code="E3005",
        why=(project.where,),
        fix=(f"the nearest: {', '.join(prefix + each for each in proposals)}",) if close else (),
    )


def _check_weights(project: Project, path: Path) -> None:
    name = shown(str(path), 200)
    if not path.is_file():
        network = _network_of(path)
        raise DataError(
            f"project {project.name}: the weights {name} are not there",
            code="E3003",
            why=(f"seen from the config's folder and from {Path.cwd()}; nothing is downloaded",),
            fix=("put the file there and name its path", f"from scratch: model={network}"),
        )
    if not _is_weights(path):
        raise DataError(
            f"project {project.name}: {name} is not a weights file",
            code="E3004",
            why=(f"{path.stat().st_size} bytes, and not the archive that torch.save writes",),
            fix=("fetch it again; a page saved by a browser is a common cause",),
        )


def _network_of(path: Path) -> str:
    """The network that trains from scratch in place of missing weights."""
    return f"{path.stem}.yaml" if path.stem.startswith("yolo") else "yolo11n.yaml"


def _is_weights(path: Path) -> bool:
    """True for torch's zip archive (with its pickle inside) or a safetensors header."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            head = file.read(9)
        size = int.from_bytes(head[:8], "little")
        return len(head) == 9 and head[8:] == b"{" and 2 <= size <= path.stat().st_size - 8
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _check_data(project: Project, settings: TrainSettings) -> None:
    if "://" in settings.data:
        raise _address(project, "data", settings.data)
    path, root = Path(settings.data), os.environ.get("ORC_DATA_ROOT")
    if not path.exists():
        raise DataError(
            f"project {project.name}: the data {shown(settings.data, 200)} is not there",
            code="E3001",
            why=(
                f"seen from the config's folder and from {Path.cwd()} ({project.where})",
                *([f"and from ORC_DATA_ROOT={root}"] if root else []),
            ),
            fix=(
                "an absolute path that every node sees, or orc submit --data-root DIR"
                if root
                else "correct the path in data:",
                "to try without data of your own: data=made:digits-detect or made:digits-classify",
            ),
        )
    try:
        read_data(project.template.trainer, settings.model, path, settings.seed)
    except DataError as error:
        raise DataError(
            f"project {project.name}: {error.what}",
            code=error.code,
            why=(*error.why, project.where),
            fix=error.fix,
        ) from error


def _address(project: Project, key: str, value: str) -> DataError:
    return DataError(
        f"project {project.name}: {key} {shown(value)} is an address; nothing is downloaded",
        code="E3006",
        why=(project.where,),
        fix=(f"fetch it, and write the path of the file in {key}:",),
    )
