"""What ultralytics is told: its environment variables, and every setting by its own key."""

import difflib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.trainer.options_shared import SHARED_KEYS, without_shared
from orchestrator.types import Scalar, TrainTask

__all__ = [
    "OPTIMIZERS",
    "environment",
    "install_hint",
    "note_ours",
    "overrides",
    "yolo_option_keys",
]

# Optimizers of ultralytics 8.4 and the lr0 that its default.yaml names for them
# ("initial learning rate (i.e. SGD=1E-2, Adam=1E-3)").
OPTIMIZERS: Mapping[str, float] = {
    "SGD": 0.01,
    "MuSGD": 0.01,
    "RMSprop": 0.01,
    "Adam": 0.001,
    "Adamax": 0.001,
    "AdamW": 0.001,
    "NAdam": 0.001,
    "RAdam": 0.001,
}

_OURS: Mapping[str, str] = {
    "model": "it is `model` of the project",
    "data": "it is `data` of the project",
    "imgsz": "it is `imgsz` of the project",
    "epochs": "it is `epochs` of the project",
    "amp": "it is `amp` of the project",
    "optimizer": "it is `optimizer` of the project",
    "lr0": "it is `lr0` of the project",
    "patience": "it is `patience` of the project",
    "workers": "it is `workers` of the project",
    "cache": "it is `cache` of the project",
    "seed": "it is `seed` of the project",
    "batch": "it is `batch` of the project, the effective batch",
    "nbs": "it is always the effective batch, so that every step is one optimizer step",
    "device": "the scheduler chooses the card; `device: cpu` belongs to the project",
    "project": "the run folder is chosen by orchestrator",
    "name": "the run folder is chosen by orchestrator",
    "exist_ok": "the run folder is chosen by orchestrator",
    "save": "checkpoints are always written",
    "save_period": "checkpoints are written after every epoch",
    "resume": "resuming is automatic; `orc resume RUN` goes on with a stopped run",
    "mode": "a run always trains",
    "task": "it follows from the model",
    "cfg": "there is one config file, this one",
    "time": "use `schedule.max_duration`",
    "compile": "a compiled model computes its loss outside, so a step could not be cut",
    "distill_model": "distillation does not allow a step to be cut",
    "quantize": "quantization-aware training does not allow a step to be cut",
}


def install_hint() -> tuple[str, ...]:
    """How ultralytics is installed, and what its licence means."""
    return (
        'pip install "orchestrator[yolo]"',
        "ultralytics is AGPL-3.0: read its licence before you ship what you train with it",
    )


def yolo_option_keys() -> frozenset[str]:
    """Keys that a config block may hand to ultralytics as they are, and ours.

    Read from the installed ultralytics' `cfg/default.yaml`, without importing the package: its
    import takes seconds and loads torch.

    Raises:
        ConfigError: E1110, ultralytics is not installed.
    """
    return (frozenset(_defaults()) | frozenset(SHARED_KEYS) | {"auto"}) - frozenset(_OURS)


@cache
def _defaults() -> dict[str, Any]:
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "training YOLO models needs ultralytics, which is not installed",
            code="E1110",
            fix=install_hint(),
        )
    import yaml

    text = (Path(spec.origin).parent / "cfg" / "default.yaml").read_text(encoding="utf-8")
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def environment(folder: str) -> dict[str, str]:
    """Variables that must be set before ultralytics is imported. `folder` is the run folder.

    Weights files load without running code, nothing is installed or downloaded, and settings
    are kept with the run instead of in the home folder that all runs would share.
    """
    return {
        "ULTRALYTICS_SAFE_LOAD": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(Path(folder) / ".ultralytics"),
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }


def overrides(task: TrainTask, *, torch_device: str, data: str, model: str) -> dict[str, Any]:
    """Everything that ultralytics' trainer is given, by its own keys.

    Its batch is the effective batch, and so is its nominal batch size: it then takes one
    optimizer step per batch, and warm-up and weight decay do not depend on the card.

    Args:
        task: The attempt.
        torch_device: "cpu" or "cuda:0".
        data: Path of the data.yaml that was generated, or of the folder of classes.
        model: Path of the weights or name of the architecture.

    Raises:
        ConfigError: E1110 ultralytics is missing, E1111 unknown key, E1112 key of ours,
            E1113 optimizer, E1114 precision.
    """
    settings = task.spec.settings
    options = _checked(settings.options)
    optimizer = _optimizer(settings.optimizer)
    return {
        **options,
        "model": model,
        "data": data,
        "imgsz": settings.imgsz,
        "epochs": settings.epochs,
        "batch": task.batch.effective_batch,
        "nbs": task.batch.effective_batch,
        "amp": _precision(settings.amp),
        "optimizer": optimizer,
        "lr0": OPTIMIZERS[optimizer] if settings.lr0 is None else settings.lr0,
        "patience": settings.patience,
        "workers": settings.workers,
        "cache": {"false": False, "ram": "ram", "disk": "disk"}[settings.cache],
        "seed": settings.seed,
        "device": torch_device.removeprefix("cuda:"),
        "plots": options.get("plots", False),
        "project": task.folder,
        "name": "ultralytics",
        "save_dir": task.folder,
        "exist_ok": True,
        "mode": "train",
        "save": True,
        "resume": False,
    }


def note_ours(arguments: Path, options: Mapping[str, Scalar]) -> None:
    """Add what was asked of us to ultralytics' args.yaml, as comments: it has no such keys."""
    found = [f"# orchestrator: {key}: {options[key]}" for key in SHARED_KEYS if key in options]
    if found:
        with arguments.open("a", encoding="utf-8") as file:
            file.write("\n".join(found) + "\n")


def _checked(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    known = yolo_option_keys()
    given = without_shared(options)
    given.pop("auto", None)  # what it names was measured before
    for key in given:
        if key in _OURS:
            raise ConfigError(
                f'the option "{key}" cannot be given to ultralytics',
                code="E1112",
                why=(_OURS[key],),
                fix=(f"remove {key} from the options",),
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            hints = tuple(f"{name} (default {_defaults()[name]})" for name in near)
            raise ConfigError(
                f'ultralytics has no option "{key}"',
                code="E1111",
                fix=(f"use {' or '.join(hints)}",) if hints else (f"remove {key}",),
            )
    return given


def _optimizer(name: str) -> str:
    found = {known.lower(): known for known in OPTIMIZERS}.get(name.lower())
    if found is None:
        why = (
            ("ultralytics' `auto` ignores lr0 and momentum, so a sweep over them changes nothing",)
            if name.lower() == "auto"
            else ()
        )
        near = difflib.get_close_matches(name, OPTIMIZERS, n=1, cutoff=0.5) or ["AdamW"]
        raise ConfigError(
            f'the optimizer "{name}" is not one that can be named',
            code="E1113",
            why=why,
            fix=(f"optimizer: {near[0]}", f"known: {', '.join(OPTIMIZERS)}"),
        )
    return found


def _precision(amp: str) -> bool | str:
    table: Mapping[str, bool | str] = {"auto": True, "fp16": True, "bf16": "bf16", "fp32": False}
    if amp not in table:
        raise ConfigError(f'amp is "{amp}"', code="E1114", fix=(f"use one of: {', '.join(table)}",))
    return table[amp]
