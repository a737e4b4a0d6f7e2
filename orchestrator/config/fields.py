"""How values of a config are written: sizes, durations, names; what each is turned into."""

import math
import re
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.selectors import is_label, normal

__all__ = [
    "NAME_PATTERN",
    "RESERVED",
    "Block",
    "RungName",
    "Text",
    "amp_given",
    "batch_given",
    "cache_given",
    "cpus_given",
    "device_given",
    "duration_given",
    "folds_given",
    "gpus_given",
    "group_key_given",
    "headroom_given",
    "labels_given",
    "memory_given",
    "memory_size",
    "name_given",
    "one_or_more",
    "optimizer_given",
    "scalar_given",
    "selector_given",
    "text_given",
    "variables_given",
    "workers_given",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"  # a folder name on every system, and nothing else
RESERVED = frozenset(
    {"resources", "schedule", "memory", "cluster", "defaults", "projects", "runs", "retry"}
    | {"folds", "stages", "ddp"}
)

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)\s*", re.IGNORECASE)
_UNITS = {"b": 1} | {
    f"{letter}{i}b": (1024 if i else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for i in ("i", "")
}
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_OPTIMIZERS = ("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp")


def text_given(value: object) -> object:
    """Refuse text with control characters, or none."""
    if isinstance(value, str) and not (value.strip() and value.isprintable()):
        raise ValueError("must be text without control characters")
    return value


def name_given(value: object) -> object:
    """Refuse what cannot be a name and a folder."""
    if not isinstance(value, str):
        raise ValueError("must be a name")  # noqa: TRY004 - pydantic collects ValueError only
    if not re.fullmatch(NAME_PATTERN, value) or ".." in value or value.endswith("."):
        raise ValueError("must be a-z, 0-9, '.', '_' or '-', at most 63 of them, and have no '..'")
    if value in RESERVED:
        raise ValueError("must not be a word of the config itself")
    return value


def memory_size(value: object) -> int:
    """Bytes of a size with its unit, such as 8GiB; ValueError says what is wrong with it."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) and len(value) < 40 else None
    if match is None:
        raise ValueError("must be auto or a size with its unit, such as 8GiB")
    size = float(match[1]) * _UNITS[match[2].lower()]
    if not 64 << 20 <= size <= 1 << 44:
        raise ValueError("must be between 64MiB and 16TiB")
    return int(size)


def memory_given(value: object) -> object:
    """Bytes of a size; None for auto."""
    return None if value is None or value == "auto" else memory_size(value)


def headroom_given(value: object) -> object:
    """Bytes or a share of the card; None for auto."""
    if value is None or value == "auto":
        return None
    text = value.strip() if isinstance(value, str) else ""
    if text.endswith("%") and re.fullmatch(r"[0-9]{1,2}(?:\.[0-9]+)?%", text):
        value = float(text[:-1]) / 100
    if isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < 0.9:
        return float(value)
    match = _SIZE.fullmatch(text) if len(text) < 40 else None
    if match is None:
        raise ValueError("must be auto, a share of the card (5%, 0.05) or a size such as 512MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def duration_given(value: object) -> object:
    """Seconds of a duration."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = value if isinstance(value, str) and 0 < len(value) < 40 else "?"
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError("must be seconds or a duration such as 90m, 6h or 1d12h")
        parts = (float(part or 0) for part in match.groups())
        seconds = sum(n * unit for n, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    if not 1 <= seconds <= 10 * 365 * 86400:
        raise ValueError("must be between 1 second and 10 years")
    return seconds


def amp_given(value: object) -> object:
    """The precision, in ultralytics' spelling too."""
    if isinstance(value, bool):  # ultralytics' own spelling
        return "fp16" if value else "fp32"
    return value


def cache_given(value: object) -> object:
    """Where pictures are kept, in ultralytics' spelling too."""
    if value is None or value is False:
        return "false"
    return "ram" if value is True else value


def optimizer_given(value: object) -> object:
    """The optimizer's name in any case."""
    known = {name.lower(): name for name in _OPTIMIZERS}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def device_given(value: object) -> object:
    """The kind of device; a card cannot be chosen here."""
    if value is None or value == "":
        return "gpu"
    if value in ("cpu", "gpu"):
        return value
    raise ValueError(
        "must be gpu or cpu: the scheduler chooses the card"
        " (resources.gpus says how many, resources.gpu_type which)"
    )


def batch_given(value: object) -> object:
    """The effective batch; what is left to the machine elsewhere is refused."""
    if isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - pydantic collects ValueError only
            "must be one number for now: a range (min, max) for the scheduler to choose from"
            " is not supported yet"
        )
    if value in (-1, "auto"):
        raise ValueError(
            "must be the effective batch that you want to train with; how it is cut to fit"
            " the card is found by itself"
        )
    return value


def one_or_more(value: object) -> object:
    """A list, of a single text too."""
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


def folds_given(value: object) -> object:
    """The block of folds, or their number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"k": value}
    return value


def group_key_given(value: object) -> object:
    """A regular expression, or the path of a .csv file."""
    if isinstance(value, str) and not value.lower().endswith(".csv"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"must be a regular expression or a .csv file ({error})") from error
    return value


def cpus_given(value: object) -> object:
    """A number of CPUs, or auto."""
    if value is None or value == "auto":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_CPUS:
        return float(value)
    raise ValueError("must be a number of CPUs, 0 to 4096, or auto")


MAX_GPUS = 4096  # of one run
MAX_CPUS = 4096  # of one worker


def gpus_given(value: object) -> int | str:
    """A number of GPUs, or a range such as "1-4" that lets the scheduler choose."""
    told = "must be a number of GPUs, 1 to 4096, or a range such as 1-4"
    match = re.fullmatch(r"([0-9]{1,4})-([0-9]{1,4})", value) if isinstance(value, str) else None
    if match is not None:
        least, most = int(match[1]), int(match[2])
        if not 1 <= least <= most <= MAX_GPUS:
            raise ValueError(told)
        return f"{least}-{most}" if least < most else most
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_GPUS:
        raise ValueError(told)
    return value


def scalar_given(value: object) -> object:
    """A single value for a trainer's own key."""
    if isinstance(value, dict | list):
        raise ValueError("must be a single value: lists and blocks are not passed on")  # noqa: TRY004 - pydantic collects ValueError only
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return text_given(value) if value else value


def workers_given(value: object) -> object:
    """A number of loading processes, or auto."""
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 256:
        raise ValueError("must be a whole number, 0 to 256, or auto")
    return value


_VARIABLE = re.compile(r"(?:TORCH_)?NCCL_[A-Z0-9_]+")


def variables_given(value: object) -> object:
    """Variables of NCCL by name; numbers and truth values as texts."""
    if not isinstance(value, dict):
        return value
    found = {}
    for name, setting in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ValueError(f"must name variables of NCCL, such as NCCL_DEBUG: INFO ({name!r})")
        text = str(int(setting)) if isinstance(setting, bool) else str(setting)
        if isinstance(setting, dict | list) or not text or not re.fullmatch(r"\S+", text):
            raise ValueError(f"must give {name} one value without spaces")
        found[name] = text
    return found


def selector_given(value: object) -> object:
    """Conditions on labels of nodes, each in its normal form; those that are empty are left out."""
    if not isinstance(value, dict):
        return value
    given = {key: condition for key, condition in value.items() if condition is not None}
    return {key: normal(str(key), _label_text(key, each)) for key, each in given.items()}


def labels_given(value: object) -> object:
    """Labels of a node; numbers as texts."""
    if not isinstance(value, dict):
        return value
    found = {str(key): _label_text(key, each) for key, each in value.items()}
    for key, text in found.items():
        if not is_label(key, text):
            raise ValueError(f"must be labels that Ray takes, and {key}={text!r:.80} is none")
    return found


def _label_text(key: object, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must give {key!r:.80} a text, such as a, !a, in(a,b) or !in(a,b)")  # noqa: TRY004 - pydantic collects ValueError only
    return str(value)


RungName: TypeAlias = Literal[
    "cut", "amp", "checkpointing", "optimizer_8bit", "optimizer_host", "shard", "imgsz"
]
Text: TypeAlias = Annotated[str, BeforeValidator(text_given), Field(min_length=1, max_length=4096)]


class Block(BaseModel):
    """A block of keys: nothing unknown, nothing converted, nothing changed later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )
