"""Starts the processes of gangs on the cards and nodes that were chosen; whole gangs or nothing."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.attempt_files import attempt_folder
from orchestrator.cluster.endings import Ending, failure
from orchestrator.cluster.gang import Gang, Rank
from orchestrator.cluster.groups import CardGroups
from orchestrator.cluster.host_shares import HostShares
from orchestrator.cluster.meeting import paths_of
from orchestrator.cluster.nodes import RayNodes
from orchestrator.cluster.spares import Expected, Spares
from orchestrator.cluster.worker import Worker
from orchestrator.messages import Event, NodeJoined, NodeLost
from orchestrator.ports import Parts
from orchestrator.types import AttemptId, Card, Cause, Node, NodeId, Seconds, Share

__all__ = ["Launcher"]


class Launcher:
    """Holds what Ray has booked for gangs: bundles of cards, CPUs and RAM.

    Args:
        parts: Handed to every worker.
        nodes: Those that are there.
        expected: Runs for which processes are made on this machine's node before they come.
    """

    def __init__(self, parts: Parts, nodes: RayNodes, expected: Expected | None = None) -> None:
        self._parts = parts
        self._nodes = nodes
        self._groups = CardGroups()
        self._host_shares = HostShares()
        self._worker = ray.remote(Worker)  # made once: each is sent to Ray's control process
        self._spares = Spares()
        self._expected = expected
        self._early: NodeId | None = None  # where processes are made as soon as it has its bundles
        self._waiting: dict[AttemptId, Gang] = {}  # for the bundles of their cards

    @property
    def waited(self) -> list[Any]:
        """Refs of what is being booked."""
        return list(self._groups.waited)

    def start(self, gang: Gang, inbox: Any) -> Ending | None:
        """Begin to start a gang; returns why it cannot be."""
        for rank in gang.ranks:
            if self._nodes.get(rank.node_id) is None:
                return failure(Cause.NODE_LOST, f"{rank.node_id} is not in the cluster")
            if rank.share.card is not None and rank.card is None:
                text = f"{rank.node_id} has no card {rank.share.card}"
                return failure(Cause.START_FAILED, text)
        if gang.ranks[0].card is None:
            for rank in gang.ranks:
                self._launch(gang, rank, self._without_card(rank), inbox)
            return None
        for node_id in sorted(gang.nodes):
            self._book(node_id)
        self._waiting[gang.attempt] = gang
        return None

    def resolve(self, ref: Any) -> None:
        """Take what was booked, or could not be."""
        if ref in self._groups.waited:
            self._groups.resolve(ref)

    def launch_waiting(self, inbox: Any, now: Seconds) -> Iterable[tuple[AttemptId, Ending]]:
        """Launch gangs all of whose cards are booked; yields those whose cards cannot be."""
        self._make_ready(inbox, now)
        for attempt, gang in tuple(self._waiting.items()):
            if any(self._groups.is_pending(node_id) for node_id in gang.nodes):
                continue
            del self._waiting[attempt]
            missing = [rank for rank in gang.ranks if not self._has(rank)]
            for rank in missing[:1]:
                text = f"Ray holds no bundle for card {rank.share.card} of {rank.node_id}"
                yield attempt, failure(Cause.START_FAILED, text)
            for rank in () if missing else gang.ranks:
                assert rank.card is not None
                ray_id = self._nodes.ray_id(rank.node_id)
                self._host_shares.take(attempt, rank.share, ray_id)
                options = self._groups.options(attempt, rank.share, rank.card)
                self._launch(gang, rank, options, inbox)

    def see(self, events: Iterable[Event]) -> None:
        """Nodes that are gone hold nothing; another of the name has to book its cards anew."""
        for event in events:
            if isinstance(event, NodeLost):
                self._groups.remove(event.node_id)
            elif isinstance(event, NodeJoined) and self._is_to_be_ready(event.node):
                self._early = event.node.node_id
                self._book(self._early)

    def give_back(self, attempt: AttemptId) -> None:
        """The attempt is over."""
        self._waiting.pop(attempt, None)
        self._groups.give_back(attempt)
        self._host_shares.give_back(attempt)

    def keep(self, gang: Gang, ending: Ending, now: Seconds) -> None:
        """Keep the process of a gang that ends cleanly, where another run may follow in it."""
        rank = gang.ranks[0]
        if not ending.is_clean or rank.actor is None or gang.doom is not None:
            return
        if self._spares.keep(gang.order, rank.num_gpus, rank.actor, now):
            rank.actor = None

    def remove_idle(self, now: Seconds) -> None:
        """End processes, and give nodes back to Ray, that have been idle for a while."""
        self._spares.expire(now)
        needed = {NodeId(name) for name in self._spares.places()}
        for gang in self._waiting.values():
            needed |= gang.nodes
        self._groups.remove_idle(now, needed)

    def close(self) -> None:
        """Give everything back."""
        self._spares.close()
        self._waiting.clear()
        self._groups.close()
        self._host_shares.close()

    def _is_to_be_ready(self, node: Node) -> bool:
        return self._expected is not None and bool(node.cards) and self._nodes.is_own(node.node_id)

    def _make_ready(self, inbox: Any, now: Seconds) -> None:
        """Make the processes for the runs that are expected, once this machine's node is booked."""
        node = None if self._early is None else self._nodes.get(self._early)
        if self._expected is None or node is None or self._groups.is_pending(node.node_id):
            return
        self._early = None
        for card in node.cards[: self._expected.count]:
            if not self._groups.has(node.node_id, card.index):
                continue
            options = self._groups.least_options(node.node_id, card.index)
            share = Share(node_id=node.node_id, card=card.index, memory_bytes=0)
            num_cpus = self._threads(node.node_id, 1.0)
            actor = self._made(options, inbox, rank=0, card=card, num_cpus=num_cpus)
            actor.get_ready.remote(self._expected.trainer)  # what fails there, fails in the run too
            environment = self._parts.environment(card, num_cpus)
            num_gpus = float(options["num_gpus"])
            self._spares.add_ready(self._expected.trainer, share, environment, num_gpus, actor, now)

    def _book(self, node_id: NodeId) -> None:
        node = self._nodes.get(node_id)
        assert node is not None
        ray_id, num_gpus = self._nodes.ray_id(node_id), self._nodes.num_gpus(node_id)
        self._groups.prepare(node, ray_id, num_gpus)

    def _has(self, rank: Rank) -> bool:
        return (
            rank.card is not None
            and self._nodes.get(rank.node_id) is not None
            and self._groups.has(rank.node_id, rank.card.index)
        )

    def _without_card(self, rank: Rank) -> dict[str, Any]:
        ray_id = self._nodes.ray_id(rank.node_id)
        return {
            "num_cpus": rank.share.num_cpus,
            "memory": rank.share.host_bytes or None,
            "num_gpus": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(ray_id, soft=False),
        }

    def _launch(self, gang: Gang, rank: Rank, options: dict[str, Any], inbox: Any) -> None:
        rank.num_gpus = float(options["num_gpus"])
        held = self._groups.held(rank.share)
        num_cpus = rank.share.num_cpus or self._threads(rank.node_id, rank.num_gpus)
        environment = self._parts.environment(rank.card, num_cpus)
        rank.actor = self._spares.take(gang.order, rank.num_gpus, held, environment)
        if rank.actor is None:
            rank.actor = self._made(
                options, inbox, rank=rank.number, card=rank.card, num_cpus=num_cpus
            )
        rank.waited = rank.actor.start.remote(gang.order, self._paths(gang))

    def _made(
        self, options: dict[str, Any], inbox: Any, *, rank: int, card: Card | None, num_cpus: float
    ) -> Any:
        actor = self._worker.options(
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,  # a request to stop comes in while `fit` runs
            **options,
        )
        return actor.remote(self._parts, inbox, rank=rank, card=card, num_cpus=num_cpus)

    def _threads(self, node_id: NodeId, fraction: float) -> float:
        """CPUs of a worker whose CPUs nobody counted: its part of its card's part of the node."""
        node = self._nodes.get(node_id)
        return max(1.0, node.num_cpus / max(1, len(node.cards)) * fraction) if node else 1.0

    def _paths(self, gang: Gang) -> tuple[str, ...]:
        """What a gang away from this machine's node has to find there; made where it is ours."""
        if all(self._nodes.is_own(node_id) for node_id in gang.nodes):
            return ()
        folder = attempt_folder(gang.order)
        with suppress(OSError):  # a disk that fails is the worker's to tell
            folder.mkdir(parents=True, exist_ok=True)
        return paths_of(gang.order.spec, folder)
