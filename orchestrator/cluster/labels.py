"""Labels by which nodes of a Ray say what they are: their type, their cards, emulated or real."""

from collections.abc import Mapping

from orchestrator.device.catalogue import CardModel, find_card
from orchestrator.errors import ConfigError
from orchestrator.types import Bytes, Card

__all__ = ["CARD", "CARD_GIB", "EMULATED", "NODE_TYPE", "PRICE", "card_in", "cards_of_type"]

NODE_TYPE = "orc.node-type"  # the name of the node's type, the same as the launcher's
CARD = "orc.card"  # a name of the catalogue, with dashes: RTX-4090
CARD_GIB = "orc.card-gib"  # of each card, as on its box or rounded
EMULATED = "orc.emulated"  # "true": the node has no cards, and poses as if it had
PRICE = "orc.price"  # of a node, in any unit

_GIB = 1 << 30
_ROUNDED = 0.05  # of a card's memory


def card_in(labels: Mapping[str, str]) -> tuple[str, Bytes, CardModel | None]:
    """The card that labels tell: its name, its memory, and its entry in the catalogue.

    A card that the catalogue does not know has the memory of its label.

    Raises:
        ConfigError: E1050 or E1052, the catalogue does not know it, and no memory is told; E1074,
            the memory is no number, or not that of the card.
    """
    kind, told = labels.get(CARD, "").replace("-", " "), labels.get(CARD_GIB)
    if told is not None and not _is_number(told):
        raise _wrong(f"label {CARD_GIB} is {told!r}, and no number", "such as 24")
    gib = 0.0 if told is None else float(told)
    try:
        card = find_card(kind)
    except ConfigError:
        if not gib:
            raise
        return kind, round(gib * _GIB), None
    sizes = (card.nominal_gib, card.memory_bytes / _GIB)
    if told is not None and all(abs(gib - size) > _ROUNDED * size for size in sizes):
        right = f"{card.nominal_gib:g}"
        raise _wrong(f"label {CARD_GIB} is {told}, and {card.name} has {right}", f"{right}")
    return card.nvml_name, card.memory_bytes, card


def cards_of_type(labels: Mapping[str, str], num_gpus: int) -> tuple[Card, ...] | None:
    """The cards of a node that an autoscaler brought and that poses as one with cards.

    None where its cards are real, or it tells them otherwise; none of them where its labels
    cannot be.
    """
    if NODE_TYPE not in labels or labels.get(EMULATED) != "true":
        return None
    try:
        name, memory, _ = card_in(labels)
    except ConfigError:
        return ()
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


def _is_number(text: str) -> bool:
    try:
        return 0.0 < float(text) < 1e6
    except ValueError:
        return False


def _wrong(what: str, fix: str) -> ConfigError:
    return ConfigError(what, code="E1074", fix=(fix,))
