"""`orc gpus`: the cards of this machine and of the driver, those put aside, and their mending."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.client.access import Client
from orchestrator.client.coming import types_to_come
from orchestrator.client.rules import mend, standing_of
from orchestrator.console.say import columns, emit, emit_json, say, size_text, span_text
from orchestrator.errors import ConfigError
from orchestrator.schedule.standing import Aside
from orchestrator.types import Card, Node, NodeType

__all__ = ["card_name", "gpus", "mend_place"]


_NODE_ID = "ray.io/node-id"  # of no use to people: a number of 56 digits


def gpus(emulate: str | None, client: Client, *, as_json: bool) -> None:
    """Print the cards, and those that are there and cannot be used, with the reason.

    Where a driver runs, its cards follow, with those on which it starts nothing new, and nodes that
    an autoscaler may bring it.
    """
    from orchestrator.device import catalogue, nvml

    cards: Sequence[Card] = ()
    refused: Sequence[nvml.RefusedCard] = ()
    if emulate is None:
        cards, refused = nvml.survey()
    else:
        cards = catalogue.emulated_cards(emulate)
    nodes = client.nodes() if client.driver() else ()
    aside = standing_of(client).aside if nodes else ()
    types = types_to_come(client) if nodes else ()
    if as_json:
        emit_json(
            gpus=[{**asdict(card), "name": card_name(card)} for card in cards],
            refused=[asdict(card) for card in refused],
            nodes=[asdict(node) for node in nodes],
            aside=[asdict(one) for one in aside],
            node_types=[asdict(each) for each in types],
        )
        return
    if cards:
        emit(_table(cards))
    else:
        say("no GPU that can be used; here runs need `device: cpu` or emulated cards")
    for card in refused:
        say(f"GPU {card.index} {card.name} is not used: {card.why}")
        say(f"  fix   {card.fix}")
    if nodes:
        _show_driver(nodes, aside)
    if types:
        _show_types(types, nodes)


def _show_types(types: Sequence[NodeType], nodes: Sequence[Node]) -> None:
    """What nodes may come when runs need them, and how many of each are there."""
    there = [node.node_type for node in nodes]
    rows = [
        (
            each.name,
            f"{each.num_cards} x {each.gpu}{' (emulated)' if each.is_emulated else ''}"
            if each.num_cards
            else f"{each.num_cpus:g} CPUs",
            size_text(each.memory_bytes) if each.num_cards else "",
            f"{there.count(each.name)} of {each.max_nodes}",
            f"{each.price:g}",
        )
        for each in types
    ]
    emit(columns(("MAY COME", "CARDS", "MEMORY", "NODES THERE", "PRICE"), rows))


def _show_driver(nodes: Sequence[Node], aside: Sequence[Aside]) -> None:
    """The cards of the driver, and why it starts nothing new on some."""
    shut = {(one.node_id, one.card) for one in aside}
    rows = [
        (
            f"{node.node_id}:{card.index}",
            card_name(card),
            size_text(card.memory_bytes),
            "put aside" if {(node.node_id, None), (node.node_id, card.index)} & shut else "",
        )
        for node in nodes
        for card in node.cards
    ]
    emit(columns(("OF THE DRIVER", "NAME", "MEMORY", "STATE"), rows))
    for node in nodes:
        if own := [f"{key}={value}" for key, value in node.labels.items() if key != _NODE_ID]:
            say(f"labels of {node.node_id}: {', '.join(own)}")
    for one in aside:
        until = one.until
        again = "" if until is None else f"; tried again in {span_text(until - time.time())}"
        say(f"{one.why}{again}")
        place = one.node_id if one.card is None else f"{one.node_id}:{one.card}"
        if not any(node.node_id == one.node_id and node.shortage for node in nodes):
            say(f"  fix   once it is mended: orc gpus mend {place}")


def mend_place(client: Client, words: Sequence[str], *, as_json: bool) -> None:
    """`orc gpus mend NODE[:CARD]`: ask the driver to trust it again.

    Raises:
        ConfigError: E1030, not understood; E1037, there is no such place.
    """
    if len(words) != 2 or words[0] != "mend":
        raise ConfigError(
            f"orc gpus {' '.join(words)[:80]} is not understood",
            code="E1030",
            fix=("orc gpus", "orc gpus mend NODE, or NODE:CARD"),
        )
    event = mend(client, words[1], time.time())
    driver = client.driver()
    if as_json:
        emit_json(mended=asdict(event), asked=True, driver=driver)
        return
    say(f"{words[1]} was asked to be trusted again")
    if driver is None:
        say("no driver runs now: it takes effect when one starts (orc serve)")


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
