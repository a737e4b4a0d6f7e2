"""Labels by which nodes of a Ray say what they are: their type, their cards, emulated or real."""

import re
from collections.abc import Mapping

from orchestrator.errors import ConfigError
from orchestrator.types import Bytes, Card

__all__ = [
    "EMULATED",
    "GPU_KIND",
    "GPU_MEMORY",
    "NODE_TYPE",
    "emulated_cards_of",
    "kind_in",
    "label_of",
    "memory_in",
]

NODE_TYPE = "node-type"  # the name of the node's type, the same as the launcher's
GPU_KIND = "gpu-kind"  # a name of the catalogue, with dashes: RTX-4090
GPU_MEMORY = "gpu-memory"  # of each card, as its driver tells it: 24564MiB
EMULATED = "gpu-emulated"  # "true": the node has no cards, and poses as if it had

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)(MiB|GiB)")


def label_of(name: str) -> str:
    """A name as a label's value may be: letters, digits, dashes, dots and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:63]


def kind_in(labels: Mapping[str, str]) -> str:
    """The name of the cards that the labels tell, "" where they tell none."""
    return labels.get(GPU_KIND, "").replace("-", " ")


def memory_in(labels: Mapping[str, str]) -> Bytes | None:
    """The memory of a card that the labels tell; None where they tell none, or not as a size."""
    found = _MEMORY.fullmatch(labels.get(GPU_MEMORY, ""))
    if found is None:
        return None
    return round(float(found[1]) * (1 << 20 if found[2] == "MiB" else 1 << 30))


def emulated_cards_of(labels: Mapping[str, str], num_gpus: int) -> tuple[Card, ...] | None:
    """The cards of a node that poses as one with cards; None where its cards are real."""
    if labels.get(EMULATED) != "true":
        return None
    memory = memory_in(labels)
    if memory is None:
        return ()  # nobody could be held to a size that is not told
    name = _name(kind_in(labels) or f"custom {memory / 2**30:g}GiB")
    return tuple(
        Card(
            index=index,
            name=name,
            memory_bytes=memory,
            is_emulated=True,
            uuid=f"EMULATED-{index}",
        )
        for index in range(num_gpus)
    )


def _name(kind: str) -> str:
    """The catalogue's name of a card; another one is taken as it is."""
    from orchestrator.device.catalogue import find_card

    try:
        return find_card(kind).name
    except ConfigError:
        return kind
