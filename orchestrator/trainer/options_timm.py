"""What a config may say about a timm classifier beyond the shared keys; imports no library."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.plan.ladder import DEFAULT_LADDER
from orchestrator.trainer.options_auto import auto_names
from orchestrator.trainer.options_ddp import DDP_KEYS, ddp_options
from orchestrator.trainer.options_memory import MEMORY_KEYS, memory_options
from orchestrator.trainer.options_save import SAVE_KEYS, SAVE_MINUTES
from orchestrator.types import Scalar

__all__ = ["TIMM_OPTIONS", "Option", "TimmOptions", "timm_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One key: its type, what holds without it, the numbers that are allowed, and what it does."""

    kind: type[str] | type[int] | type[float] | type[bool]
    default: Scalar
    doc: str
    low: float | None = None  # least value allowed
    high: float | None = None  # greatest value allowed


def _key(default: Scalar, doc: str, low: float | None = None, high: float | None = None) -> Any:
    option = Option(kind=_kind(default), default=default, doc=doc, low=low, high=high)
    return field(default=default, metadata={"option": option})


def _kind(value: Scalar) -> type[str] | type[int] | type[float] | type[bool]:
    assert value is not None
    return type(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmOptions:
    """The keys of a classifier, with ultralytics' names and meanings where it has them."""

    lrf: float = _key(0.01, "learning rate at the end, as a fraction of lr0", 0, 1)
    cos_lr: bool = _key(default=True, doc="cosine schedule; false falls linearly")
    warmup_epochs: float = _key(3.0, "epochs of linear warm-up, at most half of all epochs", 0)
    momentum: float = _key(0.937, "momentum, or the first beta of an Adam", 0, 0.9999)
    weight_decay: float = _key(0.0005, "weight decay; biases and norms have none", 0)
    label_smoothing: float = _key(0.0, "share of the target spread over all classes", 0, 0.9999)
    grad_clip: float = _key(0.0, "largest norm of the gradients; 0 does not clip", 0)
    ema_decay: float = _key(0.9998, "decay of the averaged weights; 0 keeps none", 0, 0.999999)
    dropout: float = _key(0.0, "dropout before the classifier", 0, 0.9999)
    drop_path: float = _key(0.0, "stochastic depth", 0, 0.9999)
    mixup: float = _key(0.0, "alpha of mixup; 0 mixes nothing", 0)
    cutmix: float = _key(0.0, "alpha of CutMix; 0 mixes nothing", 0)
    auto_augment: str = _key("", "randaugment, autoaugment, augmix, or timm's own words; empty: no")
    color_jitter: float = _key(0.4, "brightness, contrast, saturation; unused with auto_augment", 0)
    erasing: float = _key(0.0, "chance that a rectangle is erased", 0, 1)
    fliplr: float = _key(0.5, "chance of a left-right flip", 0, 1)
    scale: float = _key(0.5, "a random crop keeps at least 1 - scale of the area", 0, 0.99)
    fraction: float = _key(1.0, "share of the training pictures that is used", 1e-6, 1)
    channels_last: bool = _key(default=False, doc="tensors in NHWC order")
    compile: bool = _key(default=False, doc="torch.compile; the prediction of memory is without")
    save_minutes: float = _key(SAVE_MINUTES, SAVE_KEYS["save_minutes"], 0)
    pin_memory: bool = _key(default=True, doc="batches in memory that a card copies from by itself")
    auto: str = _key("", "settings that are measured: channels_last, compile, workers, ...")
    pretrained: bool = _key(default=False, doc="demand the weights of a local file (weights)")
    memory_adapt: bool = _key(default=True, doc=MEMORY_KEYS["memory_adapt"])
    memory_target: float = _key(0.85, MEMORY_KEYS["memory_target"], 0.1, 1)
    grad_checkpointing: bool = _key(default=False, doc=MEMORY_KEYS["grad_checkpointing"])
    optimizer_state: str = _key("card", MEMORY_KEYS["optimizer_state"])
    memory_ladder: str = _key(", ".join(DEFAULT_LADDER), MEMORY_KEYS["memory_ladder"])
    memory_least_imgsz: int = _key(0, MEMORY_KEYS["memory_least_imgsz"])
    ddp_bucket_mb: int = _key(25, DDP_KEYS["ddp_bucket_mb"])
    ddp_overlap: bool = _key(default=True, doc=DDP_KEYS["ddp_overlap"])
    ddp_compression: str = _key("none", DDP_KEYS["ddp_compression"])
    ddp_powersgd_rank: int = _key(1, DDP_KEYS["ddp_powersgd_rank"])
    ddp_powersgd_start: int = _key(1000, DDP_KEYS["ddp_powersgd_start"])
    ddp_shard: str = _key("none", DDP_KEYS["ddp_shard"])
    ddp_sync_bn: bool = _key(default=False, doc=DDP_KEYS["ddp_sync_bn"])
    ddp_nccl: str = _key("", DDP_KEYS["ddp_nccl"])
    weights: str = _key("", "local file to start from: .safetensors, .pt or .pth")


TIMM_OPTIONS: Mapping[str, Option] = {f.name: f.metadata["option"] for f in fields(TimmOptions)}
"""Every key that `TrainSettings.options` may hold for the timm trainer."""


def timm_options(options: Mapping[str, Scalar]) -> TimmOptions:
    """Check options and fill in the defaults.

    Raises:
        ConfigError: An unknown key, a value of another type, or a number out of its range.
    """
    found = TimmOptions(**{key: _checked(key, value) for key, value in options.items()})
    memory_options(options)
    ddp_options(options)
    auto_names("timm", options)
    return found


def _checked(key: str, value: Scalar) -> Any:
    option = TIMM_OPTIONS.get(key)
    if option is None:
        near = difflib.get_close_matches(key, TIMM_OPTIONS, n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(TIMM_OPTIONS)}"
        raise ConfigError(f'a timm classifier has no option "{key}"', code="E1101", fix=(fix,))
    if option.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not option.kind:
        raise ConfigError(
            f"{key} must be {option.kind.__name__}, not {value!r}",
            code="E1102",
            fix=(f"{key}: {option.doc}; without it: {option.default!r}",),
        )
    if option.kind is not float:
        return value
    assert isinstance(value, float)
    low = float("-inf") if option.low is None else option.low
    high = float("inf") if option.high is None else option.high
    if not (low <= value <= high and abs(value) != float("inf")):
        raise ConfigError(
            f"{key} is {value:g}, outside {low:g} to {high:g}",
            code="E1103",
            fix=(f"{key}: {option.doc}; without it: {option.default!r}",),
        )
    return value
