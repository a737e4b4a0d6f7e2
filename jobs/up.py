"""Starts a Ray that stays on this machine's cards, or on emulated ones: `orc up`."""

from pathlib import Path
from typing import TypeAlias

from orchestrator.client.access import Client
from orchestrator.client.machine import cpu_count, ram_bytes
from orchestrator.cluster.address import demand_answer
from orchestrator.cluster.layout import planned_nodes
from orchestrator.cluster.up import RayWish
from orchestrator.console.cluster import bring_up
from orchestrator.console.say import say
from orchestrator.types import Card

__all__ = ["up"]

Where: TypeAlias = tuple[str | None, str | None, int | None, int | None]
"""The head to join, this machine's address, and the ports of the head and of its job server."""


def up(
    *, home: Path | None, emulate: str | None, num_cpus: int | None, where: Where, as_json: bool
) -> int:
    """Start it, unless it runs already; returns the exit code.

    Args:
        home: The folder of the store; the record and the token lie there too.
        emulate: Cards to emulate, separated by commas.
        num_cpus: CPUs that runs may count on; None counts those of this machine.
        where: What listens where.
        as_json: How it is told.

    Raises:
        ConfigError: E1050 to E1053, an emulated card is unknown; E1080, a port is taken.
        ClusterError: As `orchestrator.cluster.up.start_ray`.
    """
    address, host, port, dashboard_port = where
    if address is not None:
        demand_answer(address)
    wish = RayWish(
        plans=planned_nodes(_cards(emulate), num_cpus or cpu_count(), ram_bytes()),
        address=address,
        host=host,
        port=port,
        dashboard_port=dashboard_port,
    )
    return bring_up(wish, Client(home).home, as_json=as_json)


def _cards(emulate: str | None) -> tuple[Card, ...]:
    if emulate is not None:
        from orchestrator.device.catalogue import emulated_cards

        return emulated_cards(emulate)
    from orchestrator.device.nvml import survey

    cards, refused = survey()
    for card in refused:
        say(f"GPU {card.index} {card.name} is not used: {card.why}; {card.fix}")
    return cards
