"""How the cluster is shared: weights and quotas of queues, the policy, places that are mended."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError
from orchestrator.messages import Event, PlaceMended, PolicyChanged, QueueChanged
from orchestrator.schedule.standing import STANDING, Standing
from orchestrator.types import NodeId, QueueRule, Seconds

if TYPE_CHECKING:
    from orchestrator.client.access import Client
    from orchestrator.config.types import Config

__all__ = ["ask_rules", "mend", "set_rule", "standing_of"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # as names of projects
_USES = ("orc queue set NAME weight=2 quota=4", "orc queue set NAME quota=none")
_MOST = 1e6  # of a weight and a quota, as in a config


def ask_rules(client: "Client", shared: "Config", at: Seconds) -> None:
    """Ask for what a config says about sharing; nothing where it says nothing."""
    events: list[Event] = [QueueChanged(at=at, rule=rule) for rule in shared.queues]
    if shared.policy is not None:
        events.append(PolicyChanged(at=at, name=shared.policy))
    if events:
        client.ask(events)


def set_rule(client: "Client", name: str, words: dict[str, str], at: Seconds) -> QueueRule:
    """Ask for another weight or quota of a queue; what is not named stays as it was last asked.

    Args:
        client: Of the store.
        name: The queue's; it need not have had a run.
        words: `weight` and `quota`, or `gpus` as the config calls it; a quota may be `none`.
        at: The time that is noted with it.

    Raises:
        ConfigError: E1036, not the name of a queue, or not a number above 0.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} cannot be the name of a queue", code="E1036", fix=_USES)
    rule = QueueRule(name=name)
    if client.is_there:
        with client.store() as store:
            rule = store.rules().get(name, rule)
    if "weight" in words:
        rule = replace(rule, weight=_number("weight", words["weight"]))
    quota = words.get("quota", words.get("gpus"))
    if quota is not None:
        rule = replace(rule, max_gpus=None if quota == "none" else _number("quota", quota))
    client.ask([QueueChanged(at=at, rule=rule)])
    return rule


def mend(client: "Client", place: str, at: Seconds) -> PlaceMended:
    """Ask the driver to trust a card or a node again that it put aside.

    Args:
        client: Of the store.
        place: `NODE` with all its cards, or `NODE:CARD`, as `orc gpus` and `orc explain` print it.
        at: The time that is noted with it.

    Raises:
        ConfigError: E1037, there is no such place; says which there are.
    """
    nodes = client.nodes()
    for node in nodes:
        places = {f"{node.node_id}:{card.index}": card.index for card in node.cards}
        if place == node.node_id or place in places:
            card = places.get(place)
            event = PlaceMended(at=at, node_id=NodeId(node.node_id), card=card)
            client.ask([event])
            return event
    known = [f"{node.node_id}:{card.index}" for node in nodes for card in node.cards]
    told = f"there are {', '.join(known[:20])}" if known else "no driver has told of any node"
    raise ConfigError(
        f"there is no node or card {place[:80]!r}",
        code="E1037",
        why=(told,),
        fix=("orc gpus mend NODE, or NODE:CARD",),
    )


def standing_of(client: "Client") -> Standing:
    """How the cluster stood when its driver last told."""
    from orchestrator.store.codec import from_plain

    if not client.is_there:
        return Standing()
    with client.store() as store:
        told = store.board(STANDING)
    return Standing() if told is None else from_plain(Standing, told)


def _number(what: str, text: str) -> float:
    """A number above 0, as in a config."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= _MOST:
        raise ConfigError(
            f"{what} {text[:40]!r} is not a number above 0",
            code="E1036",
            why=("a queue without a share would wait for ever",),
            fix=_USES,
        )
    return value
