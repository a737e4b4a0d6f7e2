"""`orc gpus`: the cards of this machine as their driver counts them, or emulated ones."""

from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.console.say import columns, emit, emit_json, say, size_text
from orchestrator.types import Card

__all__ = ["card_name", "gpus"]


def gpus(emulate: str | None, *, as_json: bool) -> None:
    """Print the cards, and those that are there and cannot be used, with the reason."""
    from orchestrator.device import catalogue, nvml

    cards: Sequence[Card] = ()
    refused: Sequence[nvml.RefusedCard] = ()
    if emulate is None:
        cards, refused = nvml.survey()
    else:
        cards = catalogue.emulated_cards(emulate)
    if as_json:
        emit_json(
            gpus=[{**asdict(card), "name": card_name(card)} for card in cards],
            refused=[asdict(card) for card in refused],
        )
        return
    if cards:
        emit(_table(cards))
    else:
        say("no GPU that can be used; here runs need `device: cpu` or emulated cards")
    for card in refused:
        say(f"GPU {card.index} {card.name} is not used: {card.why}")
        say(f"  fix   {card.fix}")


def _table(cards: Sequence[Card]) -> str:
    rows = (
        (
            card.index,
            card_name(card),
            size_text(card.memory_bytes),
            size_text(card.foreign_bytes) if card.foreign_bytes else "",
        )
        for card in cards
    )
    return columns(("GPU", "NAME", "MEMORY", "HELD BY OTHERS"), rows)


def card_name(card: Card) -> str:
    """The card's name; an emulated one is called so."""
    told = "emulated" in card.name.lower()
    return f"{card.name} (emulated)" if card.is_emulated and not told else card.name
