"""The cards and the RAM of a simulated cluster: who holds what; no byte is given twice."""

from collections.abc import Mapping

from orchestrator.errors import ClusterError
from orchestrator.messages import StartGang
from orchestrator.selectors import admits
from orchestrator.types import AttemptId, Bytes, Node, NodeId, Share

__all__ = ["SimCards"]


class SimCards:
    """The simulated world's own books; they check the scheduler's.

    Args:
        speeds: What the seconds of an epoch are divided by, per name of card.
    """

    def __init__(self, speeds: Mapping[str, float]) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self._speeds = dict(speeds)
        self._used: dict[tuple[NodeId, int], dict[AttemptId, Bytes]] = {}
        self._ram: dict[NodeId, dict[AttemptId, Bytes]] = {}

    def occupy(self, start: StartGang) -> None:
        """A gang takes its shares.

        Raises:
            ClusterError: E4102, a byte of a card, or of a node's RAM, is given twice; E4105, a node
                does not have the labels that the run asks for.
        """
        for share in start.placement.shares:
            node = self.nodes.get(share.node_id)
            if start.spec.labels and node is not None:
                _demand_labels(start, node)
            if share.host_bytes and node is not None:
                self._take_ram(start.attempt, share.host_bytes, node)
            if share.card is None or node is None:
                continue
            users = self._used.setdefault((share.node_id, share.card), {})
            users[start.attempt] = share.memory_bytes
            total = next(card for card in node.cards if card.index == share.card).memory_bytes
            if sum(users.values()) > total:
                raise ClusterError(
                    f"card {share.node_id}:{share.card} is given twice",
                    code="E4102",
                    why=(f"{total} bytes, and {users} hold more",),
                )

    def vacate(self, start: StartGang, node_id: NodeId | None = None) -> None:
        """A gang is gone from one node, or from all."""
        for share in start.placement.shares:
            if node_id not in (None, share.node_id):
                continue
            if share.host_bytes:
                self._ram.get(share.node_id, {}).pop(start.attempt, None)
            if share.card is not None:
                self._used.get((share.node_id, share.card), {}).pop(start.attempt, None)

    def _take_ram(self, attempt: AttemptId, num_bytes: Bytes, node: Node) -> None:
        users = self._ram.setdefault(node.node_id, {})
        users[attempt] = users.get(attempt, 0) + num_bytes
        if node.host_bytes and sum(users.values()) > node.host_bytes:
            raise ClusterError(
                f"RAM of {node.node_id} is given twice",
                code="E4102",
                why=(f"{node.host_bytes} bytes, and {users} hold more",),
            )

    def speed(self, share: Share) -> float:
        """Of the card of a share; 1 for a CPU and for a card that nothing is known about."""
        node = self.nodes.get(share.node_id)
        if node is None or share.card is None:
            return 1.0
        name = next(card.name for card in node.cards if card.index == share.card)
        return self._speeds.get(name, 1.0)


def _demand_labels(start: StartGang, node: Node) -> None:
    labels = start.spec.labels
    if not admits(tuple(labels.items()), node.labels):
        raise ClusterError(
            f"{start.attempt} is put on {node.node_id}, which has other labels",
            code="E4105",
            why=(f"it asks for {dict(labels)}, the node has {dict(node.labels)}",),
        )
