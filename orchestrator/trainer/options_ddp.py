"""What a config may say about how the ranks of a gang train together; imports no library."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.errors import ConfigError
from orchestrator.types import Scalar

__all__ = ["DDP_KEYS", "Compression", "DdpOptions", "Shard", "ddp_options"]


class Compression(StrEnum):
    """What gradients are turned into before they travel between ranks."""

    NONE = "none"
    FP16 = "fp16"
    BF16 = "bf16"
    POWERSGD = "powersgd"  # low-rank, with the error kept for the next step


class Shard(StrEnum):
    """Where the ranks of a gang keep weights, gradients and optimizer state."""

    NONE = "none"  # each rank all of it
    CARD = "card"  # each rank a part, on its card
    HOST = "host"  # each rank a part, in its host's memory


DDP_KEYS: Mapping[str, str] = {
    "ddp_bucket_mb": "MiB of gradients that travel together, 1 to 4096",
    "ddp_overlap": "send a bucket while the backward pass still computes the next one",
    "ddp_compression": "what gradients travel as: none, fp16, bf16 or powersgd",
    "ddp_powersgd_rank": "columns that powersgd keeps of a gradient, 1 to 256",
    "ddp_powersgd_start": "steps before powersgd begins to compress, 2 or more",
    "ddp_shard": "weights and optimizer state whole on each rank, or a part: none, card or host",
    "ddp_sync_bn": "BatchNorm sees what all ranks have of a piece",
    "ddp_nccl": "variables for NCCL: `NCCL_SOCKET_IFNAME=eth0 NCCL_DEBUG=INFO`",
}

_VARIABLE = re.compile(r"((?:TORCH_)?NCCL_[A-Z0-9_]+)=(\S*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DdpOptions:
    """How gradients travel. Sizes of buckets and the start of PowerSGD are PyTorch's defaults."""

    bucket_mb: int = 25
    overlap: bool = True
    compression: Compression = Compression.NONE
    powersgd_rank: int = 1
    powersgd_start: int = 1000
    shard: Shard = Shard.NONE
    sync_bn: bool = False
    nccl: Mapping[str, str] = field(default_factory=dict)


def ddp_options(options: Mapping[str, Scalar]) -> tuple[DdpOptions, dict[str, Scalar]]:
    """Take the keys about the gang out of a run's options.

    Returns:
        What they say, and the other options.

    Raises:
        ConfigError: E1102 a value of another type, E1103 one that is not allowed.
    """
    rest = {key: value for key, value in options.items() if key not in DDP_KEYS}
    known = DdpOptions()
    compression = options.get("ddp_compression", known.compression.value)
    if compression not in tuple(Compression):
        raise _wrong("E1103", "ddp_compression", f"is {compression!r}")
    shard = options.get("ddp_shard", known.shard.value)
    if shard not in tuple(Shard):
        raise _wrong("E1103", "ddp_shard", f"is {shard!r}")
    found = DdpOptions(
        bucket_mb=_number(options, "ddp_bucket_mb", known.bucket_mb, 1, 4096),
        overlap=_switch(options, "ddp_overlap", known.overlap),
        compression=Compression(str(compression)),
        powersgd_rank=_number(options, "ddp_powersgd_rank", known.powersgd_rank, 1, 256),
        powersgd_start=_number(
            options, "ddp_powersgd_start", known.powersgd_start, 2, 1_000_000_000
        ),
        shard=Shard(str(shard)),
        sync_bn=_switch(options, "ddp_sync_bn", known.sync_bn),
        nccl=_variables(options.get("ddp_nccl", "")),
    )
    return found, rest


def _switch(options: Mapping[str, Scalar], key: str, default: bool) -> bool:  # noqa: FBT001 - a value
    value = options.get(key, default)
    if not isinstance(value, bool):
        raise _wrong("E1102", key, f"must be true or false, not {value!r}")
    return value


def _number(options: Mapping[str, Scalar], key: str, default: int, low: int, high: int) -> int:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong("E1102", key, f"must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise _wrong("E1103", key, f"is {value}, outside {low} to {high}")
    return value


def _variables(text: Scalar) -> dict[str, str]:
    if not isinstance(text, str):
        raise _wrong("E1102", "ddp_nccl", f"must be a text, not {text!r}")
    found = {}
    for word in text.split():
        match = _VARIABLE.fullmatch(word)
        if match is None:
            raise _wrong("E1103", "ddp_nccl", f"has {word!r}, which is no variable of NCCL")
        found[match[1]] = match[2]
    return found


def _wrong(code: str, key: str, what: str) -> ConfigError:
    return ConfigError(f"{key} {what}", code=code, fix=(f"{key}: {DDP_KEYS[key]}",))
