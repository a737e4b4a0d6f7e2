"""What an entry of the GPU catalogue is, and the rules that `cards.yaml` is held to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.types import Bytes

__all__ = ["ARCHITECTURES", "CardModel", "read_models"]

_MIB = 1 << 20
# Oldest first. The first with bf16 and tf32 in its tensor cores is Ampere.
ARCHITECTURES = ("Pascal", "Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell")
_FIELDS: dict[str, dict[str, type]] = {
    "": {
        "name": str,
        "nvml_name": str,
        "aliases": list,
        "chip": dict,
        "memory": dict,
        "speed": dict,
        "power": float,
        "source": str,
        "confidence": str,
    },
    "chip": {"architecture": str, "compute_capability": str, "year": int, "laptop": bool},
    "memory": {"gib": float, "nvml_mib": int, "ecc": bool, "bandwidth": float},
    "speed": {
        "fp32": float,
        "fp16": float,
        "bf16": float,
        "tf32": float,
        "int8": float,
        "rates": str,
    },
}
_NULLABLE = {"power", "nvml_mib", "fp32", "fp16", "bf16", "tf32", "int8"}
_WORDS = {
    "architecture": ARCHITECTURES,
    "rates": ("derived", "stated", "absent", "unknown"),
    "confidence": ("checked", "recalled"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardModel:
    """A model of GPU. None stands for what the hardware lacks or nobody knows.

    `memory_bytes` is what NVML calls total where that is known, else the nominal size, less the
    sixteenth that inline ECC takes. Tensor rates are dense, with fp32 accumulation.
    `nvml_name` may be shared by variants of different memory.
    """

    name: str
    nvml_name: str
    nominal_gib: float
    memory_bytes: Bytes
    architecture: str
    source: str  # title of the document that the figures are from
    confidence: str  # checked | recalled
    aliases: tuple[str, ...] = ()
    compute_capability: tuple[int, int] | None = None
    year: int | None = None
    is_laptop: bool = False
    has_inline_ecc: bool = False
    bandwidth_gb_s: float | None = None
    fp32_tflops: float | None = None
    fp16_tensor_tflops: float | None = None
    bf16_tensor_tflops: float | None = None
    tf32_tensor_tflops: float | None = None
    int8_tensor_tops: float | None = None
    rates: str = "unknown"  # derived | stated | absent | unknown
    power_watts: float | None = None


def read_models(document: object) -> tuple[CardModel, ...]:
    """Turn the parsed file into models.

    Raises:
        ValueError: An entry has a missing, unknown, mistyped or non-positive field, names a
            document that is not listed, or repeats a name or alias.
    """
    if not isinstance(document, dict) or set(document) != {"documents", "cards"}:
        raise ValueError("cards.yaml: expected documents and cards")
    models = tuple(_read_model(entry, document["documents"]) for entry in document["cards"])
    seen: set[str] = set()
    for model in models:
        for name in (model.name, *model.aliases):
            if name.lower() in seen:
                raise ValueError(f"cards.yaml: {name} stands for two cards")
            seen.add(name.lower())
    return models


def _read_model(entry: Any, documents: Mapping[str, str]) -> CardModel:
    _check(entry, "", where=str(entry.get("name") if isinstance(entry, dict) else entry))
    chip, memory, speed = (entry[part] for part in ("chip", "memory", "speed"))
    for part in ("chip", "memory", "speed"):
        _check(entry[part], part, where=f"{entry['name']}: {part}")
    if entry["source"] not in documents:
        raise ValueError(f"cards.yaml: {entry['name']}: no document {entry['source']!r}")
    major, minor = chip["compute_capability"].split(".")
    return CardModel(
        name=entry["name"],
        nvml_name=entry["nvml_name"],
        aliases=tuple(entry["aliases"]),
        nominal_gib=memory["gib"],
        memory_bytes=_memory_bytes(memory),
        architecture=chip["architecture"],
        compute_capability=(int(major), int(minor)),
        year=chip["year"],
        is_laptop=chip["laptop"],
        has_inline_ecc=memory["ecc"],
        bandwidth_gb_s=memory["bandwidth"],
        fp32_tflops=speed["fp32"],
        fp16_tensor_tflops=speed["fp16"],
        bf16_tensor_tflops=speed["bf16"],
        tf32_tensor_tflops=speed["tf32"],
        int8_tensor_tops=speed["int8"],
        rates=speed["rates"],
        power_watts=entry["power"],
        source=documents[entry["source"]],
        confidence=entry["confidence"],
    )


def _memory_bytes(memory: Mapping[str, Any]) -> Bytes:
    if memory["nvml_mib"] is not None:
        return int(memory["nvml_mib"]) * _MIB
    nominal = int(memory["gib"]) << 30
    return nominal * 15 // 16 if memory["ecc"] else nominal


def _check(entry: object, part: str, *, where: str) -> None:
    fields = _FIELDS[part]
    if not isinstance(entry, dict) or set(entry) != set(fields):
        raise ValueError(f"cards.yaml: {where}: expected the fields {', '.join(fields)}")
    for field, value in entry.items():
        if value is None and field in _NULLABLE:
            continue
        kind = fields[field]
        kinds = (int, float) if kind is float else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"cards.yaml: {where}: {field} is {value!r}, not {kind.__name__}")
        if isinstance(value, (int, float)) and kind is not bool and value <= 0:
            raise ValueError(f"cards.yaml: {where}: {field} is {value!r}, not positive")
        if field in _WORDS and value not in _WORDS[field]:
            raise ValueError(f"cards.yaml: {where}: {field} is {value!r}")
