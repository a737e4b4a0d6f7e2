"""The shape of a config file as pydantic models: types, ranges, and the words of each key."""

import math
import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from orchestrator.config.retry import RetryModel, retry_block

__all__ = [
    "NAME_PATTERN",
    "RESERVED",
    "ClusterModel",
    "FileModel",
    "MemoryModel",
    "ProjectModel",
    "ResourcesModel",
    "ScheduleModel",
    "memory_size",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"  # a folder name on every system, and nothing else
RESERVED = frozenset(
    {"resources", "schedule", "memory", "cluster", "defaults", "projects", "runs", "retry"}
)

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)\s*", re.IGNORECASE)
_UNITS = {"b": 1} | {
    f"{letter}{i}b": (1024 if i else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for i in ("i", "")
}
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_OPTIMIZERS = ("SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp")


def _text(value: object) -> object:
    if isinstance(value, str) and not (value.strip() and value.isprintable()):
        raise ValueError("must be text without control characters")
    return value


def _name(value: object) -> object:
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


def _memory(value: object) -> object:
    return None if value is None or value == "auto" else memory_size(value)


def _headroom(value: object) -> object:
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


def _duration(value: object) -> object:
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


def _amp(value: object) -> object:
    if isinstance(value, bool):  # ultralytics' own spelling
        return "fp16" if value else "fp32"
    return value


def _cache(value: object) -> object:
    if value is None or value is False:
        return "false"
    return "ram" if value is True else value


def _optimizer(value: object) -> object:
    known = {name.lower(): name for name in _OPTIMIZERS}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def _device(value: object) -> object:
    if value is None or value == "":
        return "gpu"
    if value in ("cpu", "gpu"):
        return value
    raise ValueError(
        "must be gpu or cpu: the scheduler chooses the card"
        " (resources.gpus says how many, resources.gpu_type which)"
    )


def _batch(value: object) -> object:
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


def _one_or_more(value: object) -> object:
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


def _cpus(value: object) -> object:
    return None if value == "auto" else value


def _scalar(value: object) -> object:
    if isinstance(value, dict | list):
        raise ValueError("must be a single value: lists and blocks are not passed on")  # noqa: TRY004 - pydantic collects ValueError only
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return _text(value) if value else value


Text: TypeAlias = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=4096)]


class _Block(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )


class ResourcesModel(_Block):
    """What a run needs of the cluster."""

    gpus: int = Field(1, ge=1, le=4096, description="GPUs of one run")
    memory: Annotated[int | None, BeforeValidator(_memory, json_schema_input_type=str | None)] = (
        Field(None, description='per GPU: auto (as predicted) or a size such as "8GiB"')
    )
    headroom: Annotated[
        int | float | None,
        BeforeValidator(_headroom, json_schema_input_type=str | float | None),
    ] = Field(None, description="what stays free of a card: auto, a share (5%), a size (512MiB)")
    gpu_type: Annotated[
        tuple[Text, ...], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])
    ] = Field((), max_length=64, description="card names that are allowed; none given allows all")
    cpus: Annotated[
        float | None, BeforeValidator(_cpus, json_schema_input_type=float | str | None)
    ] = Field(None, ge=0, le=4096, description="CPUs per GPU, counted by the scheduler; auto")


class MemoryModel(_Block):
    """How a run is made to fit the memory of a card, before it starts and while it trains.

    A run has a share of its card: `resources.memory`, or what was predicted for it. Pieces that
    were cut grow again within that share only, up to `target` of it, and never beyond the piece
    that was planned: what the card has free besides belongs to others.
    """

    predict: bool = Field(
        default=True, description="predict the memory and plan with it; false takes a whole card"
    )
    ladder: Annotated[
        tuple[
            Literal["cut", "amp", "checkpointing", "optimizer_8bit", "optimizer_host", "imgsz"], ...
        ],
        BeforeValidator(_one_or_more, json_schema_input_type=str | list[str]),
    ] = Field(
        ("cut", "amp", "checkpointing", "optimizer_8bit", "optimizer_host"),
        max_length=6,
        description="what may be given up so that a run fits, in this order",
    )
    least_imgsz: int | None = Field(
        None, ge=32, le=16384, description="smallest pictures that the rung imgsz may go to"
    )
    adapt: bool = Field(
        default=True, description="pieces grow again after a cut; they are always cut when needed"
    )
    target: float = Field(
        0.85, ge=0.1, le=1, description="part of the run's share that a grown piece may take"
    )


class ScheduleModel(_Block):
    """When and how a run is started."""

    queue: Annotated[str, BeforeValidator(_name)] = "default"
    priority: int = Field(50, ge=-1000, le=1000, description="higher goes first")
    max_duration: Annotated[
        float | None, BeforeValidator(_duration, json_schema_input_type=str | float | None)
    ] = Field(None, description="such as 90m, 6h, 1d12h, or seconds")
    retry: Annotated[
        RetryModel, BeforeValidator(retry_block, json_schema_input_type=RetryModel | int)
    ] = Field(default_factory=lambda: RetryModel.model_validate({}))


class ClusterModel(_Block):
    """Where runs run. Empty means this machine's GPUs."""

    emulate: Annotated[
        tuple[Text, ...], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])
    ] = Field((), max_length=1024, description="cards to emulate on the CPU, by name")
    address: Text | None = Field(None, description="auto or ray://host:port; default: a local Ray")


class ProjectModel(_Block):
    """One training, in ultralytics' own words. Further keys go to the trainer after a check."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, BeforeValidator(_scalar)]]

    name: Annotated[str, BeforeValidator(_name), Field(pattern=NAME_PATTERN)]
    model: Text = Field(description="yolo11n.yaml, a .pt file, timm/mobilenetv3_small_050")
    data: Text = Field(description="YOLO data file, folder of class folders, or made:NAME")
    trainer: Literal["yolo", "timm", "fake"] | None = Field(None, description="from the model")
    imgsz: int | None = Field(None, ge=8, le=16384, description="pixels, square")
    batch: Annotated[int, BeforeValidator(_batch, json_schema_input_type=int)] = Field(
        16, ge=1, le=1 << 20, description="the effective batch, on every card"
    )
    micro_batch: int | None = Field(None, ge=1, le=1 << 20, description="upper limit of a piece")
    epochs: int = Field(100, ge=1, le=1_000_000)
    amp: Annotated[
        Literal["fp16", "bf16", "fp32", "auto"],
        BeforeValidator(_amp, json_schema_input_type=str | bool),
    ] = "auto"
    optimizer: Annotated[
        Literal["SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp"],
        BeforeValidator(_optimizer, json_schema_input_type=str),
    ] = "AdamW"
    lr0: float | None = Field(None, gt=0, le=1000, description="default: the optimizer's own")
    patience: int = Field(100, ge=0, le=1_000_000, description="epochs; 0 never stops early")
    workers: int = Field(8, ge=0, le=256, description="data loading processes per GPU")
    cache: Annotated[
        Literal["false", "ram", "disk"], BeforeValidator(_cache, json_schema_input_type=str | bool)
    ] = "false"
    seed: int = Field(0, ge=0, lt=1 << 32)
    device: Annotated[
        Literal["gpu", "cpu"], BeforeValidator(_device, json_schema_input_type=str | None)
    ] = "gpu"
    resources: ResourcesModel = Field(default_factory=lambda: ResourcesModel.model_validate({}))
    memory: MemoryModel = Field(default_factory=lambda: MemoryModel.model_validate({}))
    schedule: ScheduleModel = Field(default_factory=lambda: ScheduleModel.model_validate({}))


class FileModel(_Block):
    """A config file. One project alone may put its keys at the top instead of `projects`."""

    cluster: ClusterModel = Field(default_factory=lambda: ClusterModel.model_validate({}))
    runs: Text | None = Field(None, description="folder of run folders; default: runs")
    defaults: dict[str, Any] = Field(default_factory=dict, description="keys of every project")
    projects: list[ProjectModel] = Field(default_factory=list, max_length=10_000)
