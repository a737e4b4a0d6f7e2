"""Starts a Ray that stays on this machine's cards, or on emulated ones: `orc up`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from orchestrator.client.access import Client
from orchestrator.client.machine import cpu_count, ram_bytes
from orchestrator.cluster.address import demand_answer
from orchestrator.cluster.layout import planned_nodes
from orchestrator.cluster.up import RayWish
from orchestrator.console.cluster import bring_up
from orchestrator.console.say import say
from orchestrator.errors import ConfigError
from orchestrator.selectors import is_label
from orchestrator.types import Card

__all__ = ["up"]

Where: TypeAlias = tuple[str | None, str | None, int | None, int | None]
"""The head to join, this machine's address, and the ports of the head and of its job server."""


_RESERVED = ("ray.io/node-id", "orc.")  # Ray and this product give these


def up(
    *,
    home: Path | None,
    emulate: str | None,
    num_cpus: int | None,
    where: Where,
    as_json: bool,
    labels: Sequence[str] = (),
) -> int:
    """Start it, unless it runs already; returns the exit code.

    Args:
        home: The folder of the store; the record and the token lie there too.
        emulate: Cards to emulate, separated by commas.
        num_cpus: CPUs that runs may count on; None counts those of this machine.
        where: What listens where.
        as_json: How it is told.
        labels: Of the machine's nodes: `KEY=VALUE`.

    Raises:
        ConfigError: E1050 to E1053, an emulated card is unknown; E1080, a port is taken; E1086, a
            label that Ray does not take.
        ClusterError: As `orchestrator.cluster.up.start_ray`.
    """
    address, host, port, dashboard_port = where
    if address is not None:
        demand_answer(address)
    wish = RayWish(
        plans=planned_nodes(_cards(emulate), num_cpus or cpu_count(), ram_bytes(), _labels(labels)),
        address=address,
        host=host,
        port=port,
        dashboard_port=dashboard_port,
    )
    return bring_up(wish, Client(home).home, as_json=as_json)


def _labels(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in (part.strip() for each in words for part in each.split(",")):
        key, _, value = word.partition("=")
        if not is_label(key, value) or key.startswith(_RESERVED):
            raise ConfigError(
                f"--labels {word!r:.80} is no label that a person gives a node",
                code="E1086",
                why=("letters, digits, dashes, dots and underscores, at most 63, as KEY=VALUE",),
                fix=("such as --labels zone=a,disk=ssd",),
            )
        found[key] = value
    return found


def _cards(emulate: str | None) -> tuple[Card, ...]:
    if emulate is not None:
        from orchestrator.device.catalogue import emulated_cards

        return emulated_cards(emulate)
    from orchestrator.device.nvml import survey

    cards, refused = survey()
    for card in refused:
        say(f"GPU {card.index} {card.name} is not used: {card.why}; {card.fix}")
    return cards
