"""Why labels keep a run from nodes: how many have them, which values there are, what is near."""

import difflib
from collections import Counter
from collections.abc import Iterator

from orchestrator.schedule.asks import Ask
from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.offers import Offers
from orchestrator.selectors import is_met, selector_text, values_in
from orchestrator.types import PendingReason

__all__ = ["label_available", "label_remedies", "label_sentence"]

MAX_VALUES = 6  # told of a label; a label with more is a name of the node


def label_sentence(ask: Ask, reason: PendingReason) -> str:
    """Why a run with labels asks for too much; empty where labels change nothing."""
    if ask.labels and reason is PendingReason.EXCEEDS_CLUSTER:
        return "it asks for more than the nodes with its labels have, so waiting cannot help"
    return ""


def label_available(ask: Ask, ledger: Ledger, offers: Offers) -> Iterator[str]:
    """How many nodes have the labels that are asked for, and which values of each there are."""
    if not ask.labels:
        return
    num = sum(room.admits(ask.labels) for room in ledger.nodes.values())
    yield f"{selector_text(ask.labels)} on {num} of {len(ledger.nodes)} nodes"
    for key, condition in ask.labels:
        values = _values(key, ledger)
        num_met = sum(num for value, num in values.items() if is_met(condition, value))
        told = [f"{value} ({num})" for value, num in values.most_common() if value is not None]
        if len(told) > MAX_VALUES:
            told[MAX_VALUES:] = [f"{len(told) - MAX_VALUES} more values"]
        coming = sorted({t.labels[key] for t in offers.node_types if key in t.labels})
        told += [f"may come: {', '.join(coming[:MAX_VALUES])}"] if coming else []
        found = f"label {key}: {', '.join(told)}" if told else f"no label {key}"
        yield f"{found}; {num_met} nodes are {condition}"


def label_remedies(
    ask: Ask, reason: PendingReason, ledger: Ledger, offers: Offers
) -> Iterator[str]:
    """The nearest labels and values to those that nobody has, and what else would help."""
    if not ask.labels or reason is PendingReason.NO_MATCHING_GPU:
        return
    keys = {key for room in ledger.nodes.values() for key in room.node.labels}
    keys.update(key for each in offers.node_types for key in each.labels)
    for key, condition in ask.labels:
        values = _values(key, ledger)
        if any(num and is_met(condition, value) for value, num in values.items()):
            continue
        known = {value for value in values if value is not None}
        known.update(t.labels[key] for t in offers.node_types if key in t.labels)
        if condition.startswith("!"):
            yield f"every node is left out by {key}={condition}"
        elif known:
            near = ", ".join(_nearest(values_in(condition)[0], known))
            yield f"no node is {key}={condition}; the nearest values: {near}"
        elif near := ", ".join(_nearest(key, keys)):
            yield f"no node has a label {key}; the nearest: {near}"
        else:
            yield f"no node has a label {key}, or any; nodes get them from orc up --labels"
    yield "let it run on other nodes: change resources.labels, or leave it out"


def _values(key: str, ledger: Ledger) -> Counter[str | None]:
    """How many nodes have each value of a label; None counts those without it."""
    return Counter(room.node.labels.get(key) for room in ledger.nodes.values())


def _nearest(word: str, known: set[str]) -> list[str]:
    """Known words most like one; those that are nearest by far where none is alike."""
    lowered = {each.lower(): each for each in sorted(known)}
    for cutoff in (0.5, 0.0):
        near = difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=cutoff)
        if near:
            return [lowered[each] for each in near]
    return []
