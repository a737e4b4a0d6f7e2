"""The nodes of a Ray: who joined, who is lost, and what their cards look like."""

import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.labels import NODE_TYPE, cards_of_type
from orchestrator.errors import ClusterError
from orchestrator.messages import Event, NodeChanged, NodeJoined, NodeLost
from orchestrator.types import Bytes, Card, Node, NodeId, Seconds

__all__ = ["RayNodes", "has_changed", "host_bytes_of", "node_names", "nodes_now"]

_LISTING_SECONDS: Seconds = 1.0
_CARDS_SECONDS: Seconds = 10.0
_NOTABLE_BYTES: Bytes = 128 * 1024**2  # smaller changes of foreign memory are not worth a record
_STEP_BYTES: Bytes = 256 * 1024**2  # equal machines differ by less, and shall count as equal
_PATIENCE_LOCAL: Seconds = 2.0  # nobody restarts the control process of a Ray of our own
_PATIENCE_JOINED: Seconds = 30.0  # where it keeps its state, it is back in about 6 s


def node_names(known: Mapping[str, NodeId], hostnames: Mapping[str, str]) -> dict[str, NodeId]:
    """Ids of nodes that people can read: the host's name, longer only where it is taken.

    Args:
        known: The names given so far, by Ray's node id.
        hostnames: Host names of the nodes that are alive, by Ray's node id.
    """
    names = {ray_id: name for ray_id, name in known.items() if ray_id in hostnames}
    for ray_id, hostname in hostnames.items():
        if ray_id not in names:
            taken = frozenset(names.values())
            names[ray_id] = next(n for n in _names(hostname, ray_id) if n not in taken)
    return names


def _names(hostname: str, ray_id: str) -> Iterator[NodeId]:
    """What a node may be called; the ends of ids differ also where a launcher counts them up."""
    yield NodeId(hostname)
    for length in range(min(6, len(ray_id)), len(ray_id) + 1):
        yield NodeId(f"{hostname}-{ray_id[-length:]}")


def host_bytes_of(resources: Mapping[str, float]) -> Bytes:
    """RAM that workers on a node may take, rounded down to 256 MiB; 0 where Ray does not tell.

    Args:
        resources: All that the node told Ray. Its "memory" is what was free when its Ray started,
            within the limit of its control group, less Ray's object store.
    """
    told = int(resources.get("memory", 0))
    return told // _STEP_BYTES * _STEP_BYTES or told


def has_changed(before: Node, after: Node) -> bool:
    """True when a node's cards are others, or foreign memory on one changed notably."""
    pairs = tuple(zip(before.cards, after.cards, strict=False))
    return (
        len(before.cards) != len(after.cards)
        or any(replace(a, foreign_bytes=0) != replace(b, foreign_bytes=0) for a, b in pairs)
        or any(abs(a.foreign_bytes - b.foreign_bytes) >= _NOTABLE_BYTES for a, b in pairs)
    )


def nodes_now(list_cards: Callable[[], Sequence[Card]], patience: Seconds) -> tuple[Node, ...]:
    """The nodes of the Ray that is connected; those that do not answer in time are left out.

    Args:
        list_cards: As `RayNodes` has it.
        patience: Seconds for all of them to tell their cards.

    Raises:
        ClusterError: Ray is gone.
    """
    nodes = RayNodes(list_cards, None)
    events, until = nodes.compare(0.0, is_due=True), time.monotonic() + patience
    while nodes.waited and (left := until - time.monotonic()) > 0:
        ready, _ = ray.wait(list(nodes.waited), num_returns=1, timeout=left)
        for ref in ready:
            events += nodes.resolve(ref, 0.0)
    return tuple(event.node for event in events if isinstance(event, NodeJoined))


@dataclass(slots=True)
class _Known:
    ray_id: str
    node: Node
    num_gpus: int  # as Ray counts them
    is_real: bool  # its cards are asked for on the node
    is_joined: bool = False
    listed_at: Seconds = 0.0
    listing: Any = None


class RayNodes:
    """Compares listings of Ray's nodes about every second, and of their cards every ten.

    Args:
        list_cards: Lists the real cards of the host it runs on; it travels to every node.
        local_cards: The cards of this machine, where they are known: emulated ones, or those that a
            Ray of our own was started with. None asks every node.
    """

    def __init__(
        self, list_cards: Callable[[], Sequence[Card]], local_cards: Sequence[Card] | None
    ) -> None:
        self._list_cards = list_cards
        self._local_cards = local_cards
        context = ray.get_runtime_context()
        self.own_id: str = context.get_node_id()
        host, _, port = context.gcs_address.rpartition(":")
        self._control = (host.strip("[]"), int(port))
        self._task = ray.remote(_cards_here)
        self._known: dict[NodeId, _Known] = {}
        self._compared_at: Seconds = float("-inf")
        self._silent_since: Seconds | None = None
        self.held: Collection[NodeId] = ()  # nodes with gangs
        self.waited: dict[Any, NodeId] = {}

    def get(self, node_id: NodeId) -> Node | None:
        """The node, while it is there."""
        known = self._known.get(node_id)
        return known.node if known and known.is_joined else None

    def ray_id(self, node_id: NodeId) -> str:
        """Ray's own id of a node that is there."""
        return self._known[node_id].ray_id

    def is_own(self, node_id: NodeId) -> bool:
        """True for the node of this process."""
        known = self._known.get(node_id)
        return known is not None and known.ray_id == self.own_id

    def num_gpus(self, node_id: NodeId) -> int:
        """How many GPUs a node that is there told Ray: at least as many as it has cards."""
        return self._known[node_id].num_gpus

    def compare(self, now: Seconds, *, is_due: bool = False) -> list[Event]:
        """What changed since the last listing, if it is time (or `is_due`) for another.

        Raises:
            ClusterError: Ray's control process, or the node of this process, is gone.
        """
        if not is_due and now - self._compared_at < _LISTING_SECONDS:
            return []
        self._compared_at = now
        if not self._is_control_there(now):
            return []
        alive = {entry["NodeID"]: entry for entry in ray.nodes() if entry["Alive"]}
        if self.own_id not in alive:
            raise _lost("Ray's node process on this machine is gone")
        events = self._lose(set(alive), now)
        names = node_names(
            {known.ray_id: name for name, known in self._known.items()},
            {ray_id: entry["NodeManagerHostname"] for ray_id, entry in alive.items()},
        )
        for ray_id, name in names.items():
            if name not in self._known:
                events += self._meet(name, ray_id, alive[ray_id], now)
        for name, known in self._known.items():
            if self._is_to_ask(name, known, now):
                self._ask_cards(name, known)
        return events

    def _is_to_ask(self, name: NodeId, known: _Known, now: Seconds) -> bool:
        """True when cards are due; asked again and again, an idle node would never be let go."""
        is_due = known.is_real and known.listing is None and now - known.listed_at >= _CARDS_SECONDS
        return is_due and (name in self.held or not known.node.node_type)

    def resolve(self, ref: Any, now: Seconds) -> list[Event]:
        """A waited ref is ready: what the cards of a node look like."""
        name = self.waited.pop(ref)
        known = self._known[name]
        known.listing = None
        known.listed_at = now
        try:
            node = replace(known.node, cards=ray.get(ref))
        except ray.exceptions.RayTaskError:  # its driver does not answer: no card can be used
            node = replace(known.node, cards=())
        except ray.exceptions.RayError:
            return []  # asked again in ten seconds; a node that is gone is told by the listing
        if not known.is_joined:
            known.node, known.is_joined = node, True
            return [NodeJoined(at=now, node=node)]
        if not has_changed(known.node, node):
            return []
        known.node = node
        return [NodeChanged(at=now, node=node)]

    def _lose(self, alive: set[str], now: Seconds) -> list[Event]:
        events: list[Event] = []
        for name, known in tuple(self._known.items()):
            if known.ray_id not in alive:
                del self._known[name]
                self.waited = {ref: owner for ref, owner in self.waited.items() if owner != name}
                if known.is_joined:
                    events.append(NodeLost(at=now, node_id=name))
        return events

    def _meet(
        self, name: NodeId, ray_id: str, entry: Mapping[str, Any], now: Seconds
    ) -> list[Event]:
        resources = entry["Resources"]
        is_told = self._local_cards is not None and ray_id == self.own_id
        cards = tuple(self._local_cards or ()) if is_told else ()
        labels, num_gpus = entry.get("Labels") or {}, int(resources.get("GPU", 0))
        emulated = None if is_told else cards_of_type(labels, num_gpus)
        cards = cards if emulated is None else emulated
        node = Node(
            node_id=name,
            cards=cards,
            num_cpus=float(resources.get("CPU", 0.0)),
            hostname=str(entry["NodeManagerHostname"]),
            host_bytes=host_bytes_of(resources),
            node_type=str(labels.get(NODE_TYPE, "")),
            labels={str(key): str(value) for key, value in sorted(labels.items())},
        )
        is_real = num_gpus > 0 and emulated is None and not any(c.is_emulated for c in cards)
        known = _Known(ray_id=ray_id, node=node, num_gpus=num_gpus, is_real=is_real, listed_at=now)
        self._known[name] = known
        if is_real and not is_told:
            self._ask_cards(name, known)
            return []
        known.is_joined = True
        return [NodeJoined(at=now, node=node)]

    def _ask_cards(self, name: NodeId, known: _Known) -> None:
        task = self._task.options(
            num_cpus=0,
            num_gpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(known.ray_id, soft=False),
        )
        known.listing = task.remote(self._list_cards, known.num_gpus)
        self.waited[known.listing] = name

    def _is_control_there(self, now: Seconds) -> bool:
        """Ask before every listing: with the control process gone, a listing would block."""
        try:
            socket.create_connection(self._control, timeout=1.0).close()
        except OSError as error:
            since = self._silent_since = self._silent_since or now
            patience = _PATIENCE_JOINED if self._local_cards is None else _PATIENCE_LOCAL
            if now - since >= patience:
                raise _lost(f"Ray's control process is gone: {error}") from error
            return False
        self._silent_since = None
        return True


def _cards_here(list_cards: Callable[[], Sequence[Card]], num_gpus: int) -> tuple[Card, ...]:
    return tuple(list_cards())[:num_gpus]  # a node may have been started with fewer than it has


def _lost(why: str) -> ClusterError:
    return ClusterError(
        "Ray ended while runs were under way",
        code="E4005",
        why=(why, "what was recorded is safe"),
        fix=("start the same command again: every run goes on from its last checkpoint",),
    )
