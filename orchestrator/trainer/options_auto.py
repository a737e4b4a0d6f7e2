"""Settings that `auto` leaves to a measurement, by trainer, and what each answer holds for."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import PurePath

from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError
from orchestrator.types import Scalar, TrainSettings

__all__ = ["AUTO_KEYS", "auto_names", "can_be", "card_named", "kind_of", "versions_of"]

AUTO_KEYS: Mapping[str, Mapping[str, Scalar]] = {
    "timm": {
        "channels_last": False,
        "compile": False,
        "pin_memory": True,
        "cache": "false",
        "workers": 8,
    },
    "yolo": {  # a compiled step cannot be cut, and ultralytics pins what it loads
        "channels_last": True,  # as ultralytics has it on a card; elsewhere it knows no other way
        "cache": "false",
        "workers": 8,
    },
}
"""What each trainer measures, in this order, and what holds until it is; workers are a limit."""


def auto_names(trainer: str, options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The settings that a run leaves to a measurement, in the order in which they are tried.

    Raises:
        ConfigError: E1103, one of them cannot be measured.
    """
    offered = AUTO_KEYS.get(trainer, {})
    text = options.get("auto", "")
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    if unknown := sorted(set(names) - offered.keys()):
        raise ConfigError(
            f"auto is not offered for {', '.join(unknown)}",
            code="E1103",
            fix=(f"auto: some of {', '.join(offered)}" if offered else "leave auto out",),
        )
    return tuple(name for name in offered if name in names)


_EMULATED = " (emulated)"
_LIBRARIES = {"timm": "timm", "yolo": "ultralytics"}
_OF_DATA = ("cache", "workers")  # by how long a picture takes to be read and decoded


def can_be(name: str, value: Scalar) -> bool:
    """True for a value that a setting can have: what another version wrote may be none."""
    if name == "workers":
        return type(value) is int and value >= 0
    return value in {"ram", "disk", "false"} if name == "cache" else isinstance(value, bool)


def card_named(device: str) -> str:
    """The catalogue's name of a card, where it knows it, with what says that it is emulated."""
    name = device.removesuffix(_EMULATED)
    with suppress(ConfigError):
        name = find_card(name).name
    return name + _EMULATED if device.endswith(_EMULATED) else name


def versions_of(trainer: str) -> str:
    """The versions here of what a trainer computes with; empty where it is not installed."""
    try:
        found = {name: metadata.version(name) for name in ("torch", _LIBRARIES[trainer])}
    except metadata.PackageNotFoundError:
        return ""
    return " ".join(f"{name}={version}" for name, version in found.items())


def kind_of(
    name: str,
    settings: TrainSettings,
    *,
    micro_batch: int,
    num_cpus: int,
    versions: str,
    is_on_cpu: bool,
) -> str:
    """What the answer for a setting holds for, besides card and model.

    Micro-batches count by their power of two: a sample more changes none of the answers. CPUs
    matter for what they do: load pictures, and compute where there is no card; the data for what
    reads it.
    """
    parts: dict[str, Scalar] = {
        "imgsz": settings.imgsz,
        "micro_batch": 1 << (micro_batch.bit_length() - 1),
        "amp": settings.amp,
    }
    if name in _OF_DATA:
        data = PurePath(settings.data)
        parts["data"] = f"{data.name}@{hashlib.sha256(str(data).encode()).hexdigest()[:8]}"
    if name == "workers":
        parts["most"] = settings.workers
    if name in _OF_DATA or is_on_cpu:
        parts["cpus"] = num_cpus
    told = " ".join(f"{key}={value}" for key, value in parts.items())
    return f"{told} {versions}"
