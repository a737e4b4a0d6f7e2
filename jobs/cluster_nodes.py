"""A Ray of several nodes on this machine, each with emulated cards of its own, for benches."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import token_file, use_token
from orchestrator.device.catalogue import emulated_cards
from orchestrator.types import Card

__all__ = ["Nodes", "cards_of_node", "nodes_of"]

_CARDS = "ORC_BENCH_NODE_CARDS"
_QUICK = {  # a node that died is noticed within 2 s
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}


def cards_of_node() -> Sequence[Card]:
    """The cards that the node was started with."""
    return tuple(Card(**values) for values in json.loads(os.environ.get(_CARDS, "[]")))


class Nodes:
    """Adds and removes nodes; in the main thread only, as Ray demands."""

    def __init__(self, home: Path) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(_QUICK)
        use_token(token_file(home))
        head = {"num_cpus": 1, "include_dashboard": False}
        self.ray = Cluster(initialize_head=True, head_node_args=head)

    def add(self, cards: str) -> Any:
        """Start a node with cards such as "2x RTX 2060 6GB"."""
        made = emulated_cards(cards)
        told = json.dumps([asdict(card) for card in made])
        return self.ray.add_node(num_cpus=2, num_gpus=len(made), env_vars={_CARDS: told})

    def kill(self, node: Any) -> None:
        """End a node's processes without a word."""
        self.ray.remove_node(node, allow_graceful=False)


@contextmanager
def nodes_of(home: Path) -> Iterator[Nodes]:
    """Ended with the block."""
    nodes = Nodes(home)
    try:
        yield nodes
    finally:
        nodes.ray.shutdown()
