"""What each trainer knows (further keys, networks, data sets), asked of it by its name."""

import importlib.util
import pkgutil
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

__all__ = [
    "check_option",
    "known_models",
    "measurable",
    "option_keys",
    "read_data",
    "scaled_like",
    "without_scale",
]

# Named as text, like entry points: the config knows trainers as data and depends on none of them.
_OPTION_KEYS = {
    "yolo": "orchestrator.trainer.yolo_settings:yolo_option_keys",
    "timm": "orchestrator.trainer.options_timm:TIMM_OPTIONS",
}
_OPTION_CHECKS = {
    "timm": "orchestrator.trainer.options_timm:timm_options",
    "yolo": "orchestrator.trainer.options_shared:without_shared",  # ultralytics checks its own
}
_MEASURABLE = "orchestrator.trainer.options_auto:AUTO_KEYS"
# Readers of data sets that import no framework: (YOLO data file, YOLO class folders, timm).
_READ_FILE = "orchestrator.trainer.yolo_data:read_data_yaml"
_READ_FOLDERS = "orchestrator.trainer.yolo_data:read_class_folders"
_READ_PICTURES = "orchestrator.trainer.pictures:find_pictures"
# What opens every picture and label: (YOLO, the headers of timm's pictures).
_EXAMINE_YOLO = "orchestrator.trainer.yolo_labels:check_data"
_EXAMINE_PICTURES = "orchestrator.trainer.pictures:decoded_bytes"
_EXAMINERS = 4  # threads; they wait for the disk
_YOLO_NAME = re.compile(r"yolo\w*?(?:-(cls|seg|pose|obb))?\.(?:pt|ya?ml)")
_TASKS = {"cls": "classify", "seg": "segment", "pose": "pose", "obb": "obb"}
_TIMM_ENTRY = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_SCALE = re.compile(r"(\d+)([nslmx])(.*)$")  # yolo11n-cls is scale n of yolo11-cls


@cache
def option_keys(trainer: str) -> frozenset[str]:
    """Keys that `trainer` takes beyond those of the config itself; the fake trainer takes all.

    Reads the installed library's own list without importing the library.
    """
    if trainer not in _OPTION_KEYS:
        return frozenset()
    known = pkgutil.resolve_name(_OPTION_KEYS[trainer])
    return frozenset(known() if callable(known) else known)


def measurable(trainer: str) -> tuple[str, ...]:
    """Settings of a trainer that `auto` leaves to a measurement."""
    return tuple(pkgutil.resolve_name(_MEASURABLE).get(trainer, ()))


def check_option(trainer: str, key: str, value: object) -> None:
    """Let the trainer check one value, where it has a check that imports no framework.

    Raises:
        ConfigError: The value is of the wrong type or out of range.
    """
    if trainer in _OPTION_CHECKS:
        pkgutil.resolve_name(_OPTION_CHECKS[trainer])({key: value})


def read_data(trainer: str, model: str, path: Path, seed: int) -> None:
    """Let the trainer's own reader look at the data set, every picture and label of it.

    Weights of a name of their own (`best.pt`) do not tell their task without torch; then the
    labels are first read by the worker.

    Raises:
        DataError: E31xx or E32xx, what is wrong with the data set and how to repair it.
    """
    if trainer == "timm":
        for pictures in pkgutil.resolve_name(_READ_PICTURES)(path, seed):
            pkgutil.resolve_name(_EXAMINE_PICTURES)(pictures, _EXAMINERS)
        return
    name = _YOLO_NAME.fullmatch(Path(model).name)
    is_classifier = "-cls" in Path(model).name
    data = pkgutil.resolve_name(_READ_FOLDERS if is_classifier else _READ_FILE)(path)
    if name:
        pkgutil.resolve_name(_EXAMINE_YOLO)(data, _TASKS.get(name[1], "detect"))


@cache
def known_models(trainer: str) -> frozenset[str]:
    """Model names that the installed library can build, read from its files, not imported.

    YOLO names come without their scale letter (`yolo11-cls.yaml`), timm names without `timm/`.
    Empty when the library is not installed.
    """
    library = {"yolo": "ultralytics", "timm": "timm"}.get(trainer)
    spec = importlib.util.find_spec(library) if library else None
    if spec is None or spec.origin is None:
        return frozenset()
    root = Path(spec.origin).parent
    if trainer == "yolo":
        return frozenset(path.name for path in root.glob("cfg/models/*/*.yaml"))
    sources = sorted((root / "models").glob("*.py"))
    return frozenset(
        name for path in sources for name in _TIMM_ENTRY.findall(path.read_text("utf-8"))
    )


def without_scale(name: str) -> str:
    """`yolo11n-cls.yaml` as `yolo11-cls.yaml`, the way ultralytics finds its model files."""
    return _SCALE.sub(r"\1\3", name)


def scaled_like(name: str, known: Collection[str]) -> tuple[str, ...]:
    """The known YOLO names with the scale letter of `name` put back, for a proposal."""
    scale = _SCALE.search(name)
    letter = scale[2] if scale else "n"
    return tuple(re.sub(r"(yolo\w*?\d+)(?=[-.])", rf"\1{letter}", each) for each in known)
