"""Cards, nodes, and the shares of them that gangs hold; frozen values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType, TypeAlias

__all__ = ["Bytes", "Card", "DeviceMemory", "Node", "NodeId", "NodeType", "Placement", "Share"]

NodeId = NewType("NodeId", str)
Bytes: TypeAlias = int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Memory of one card in bytes, as the driver of the card counts it."""

    total_bytes: Bytes
    used_bytes: Bytes
    foreign_bytes: Bytes = 0  # held by processes that are not ours; part of used_bytes

    @property
    def free_bytes(self) -> Bytes:
        """Bytes nobody holds."""
        return self.total_bytes - self.used_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU of a node. `memory_bytes` is what NVML calls total; headroom is not yet taken."""

    index: int
    name: str
    memory_bytes: Bytes
    foreign_bytes: Bytes = 0
    is_emulated: bool = False
    uuid: str = ""
    worth: float = 1.0  # how fast it trains, as a multiple of some card; 1 where nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that can run gangs."""

    node_id: NodeId
    cards: tuple[Card, ...]
    num_cpus: float = 1.0
    hostname: str = ""
    host_bytes: Bytes = 0  # RAM that workers may take; 0 is not known, and not limited
    shortage: str = ""  # why nothing new may start there for now: its disk is nearly full
    node_type: str = ""  # name of the `NodeType` that it came as, where an autoscaler brought it
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """A kind of node that an autoscaler may bring: what one of them has, and how many may be.

    `price` is what a node costs for some time, in any unit that is the same for all types;
    `labels` are those that the cluster gives to nodes of this type and of no other.
    """

    name: str
    max_nodes: int
    price: float
    gpu: str = ""  # name of its cards; empty for a node without
    num_cards: int = 0
    memory_bytes: Bytes = 0  # of each card
    num_cpus: float = 1.0
    host_bytes: Bytes = 0  # RAM; 0 is not known, and not limited
    labels: Mapping[str, str] = field(default_factory=dict)
    is_emulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one worker takes: bytes of one card, or, with `card` None, of the node alone."""

    node_id: NodeId
    card: int | None
    memory_bytes: Bytes
    num_cpus: float = 0.0
    host_bytes: Bytes = 0  # RAM


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a gang runs: one share per worker, in rank order."""

    shares: tuple[Share, ...]

    @property
    def world_size(self) -> int:
        """Workers in the gang."""
        return len(self.shares)
