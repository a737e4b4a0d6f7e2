"""Between driver and simulated cluster: partitions, messages that come twice, wrong clocks."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.cluster.script import Faults
from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_gang import Luck
from orchestrator.messages import (
    Action,
    AskNodes,
    AttemptEvent,
    Event,
    GangFailed,
    NodeChanged,
    NodeJoined,
    NodeLost,
    StartGang,
)
from orchestrator.types import AttemptId, Cause, NodeId, Seconds

__all__ = ["Partition", "SimNetwork"]

NOTICE_SECONDS: Seconds = 20.0  # until a node that is out of reach counts as lost
DATE: Seconds = 1_000_000.0  # of the true beginning
TWICE_SECONDS = (0.0, 400.0)  # after which a message comes again


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A node that is out of reach for some time, and works on meanwhile."""

    node_id: NodeId
    at: Seconds
    seconds: Seconds


class SimNetwork:
    """Implements Cluster and Clock around a SimCluster, whose own time is the true one.

    * A node in a partition works on; nothing gets there, and what it says waits. It is told as
      lost. When it is in reach again its gangs are ended, and all that they said comes at once,
      before or after the news that the node is back.
    * A message of an attempt may come a second time, much later.
    * `at` of events is off by the jitter of clocks, and by what the date is wrong. The date is
      read once by each driver, so it changes with `restart`.

    Args:
        cluster: The world.
        seed: Of what happens by chance.
        duplicate: Part of the messages that come twice.
        jitter_seconds: Largest error of a time stamp, to either side.
        partitions: Which nodes are out of reach, and when.
    """

    def __init__(
        self,
        cluster: SimCluster,
        *,
        seed: int = 0,
        duplicate: float = 0.0,
        jitter_seconds: Seconds = 0.0,
        partitions: Sequence[Partition] = (),
    ) -> None:
        self._cluster = cluster
        self._luck = Luck(Faults(), seed)
        self._duplicate = duplicate
        self._jitter = jitter_seconds
        self._offset = DATE
        self._heap: list[tuple[Seconds, int, Callable[[], Sequence[Event]]]] = []
        self._count = 0
        self._cut: dict[NodeId, list[Event]] = {}  # what a node out of reach has said
        self._home: dict[AttemptId, NodeId] = {}
        for partition in partitions:
            self.at(partition.at, lambda one=partition: self._part(one))  # type: ignore[misc]

    def now(self) -> Seconds:
        """What the driver believes: the date, with its error."""
        return self._cluster.now() + self._offset

    def at(self, when: Seconds, happen: Callable[[], Sequence[Event]]) -> None:
        """Let something happen at a true moment; the events it returns are delivered."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, happen))

    def apply(self, action: Action) -> None:
        """Carry an action to the cluster, unless its node is out of reach."""
        if isinstance(action, StartGang):
            self._home[action.attempt] = action.placement.shares[0].node_id
            nodes = {share.node_id for share in action.placement.shares}
            if nodes & self._cut.keys():
                if len(nodes) > 1:  # else the node will be told as lost, which ends the attempt
                    self._refuse(action.attempt)
                return
        elif not isinstance(action, AskNodes) and self._home.get(action.attempt) in self._cut:
            return
        self._cluster.apply(action)

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """As `SimCluster.wait`, for what gets through."""
        limit = None if until is None else until - self._offset
        while True:
            due = self._heap[0][0] if self._heap else None
            stop = min((at for at in (limit, due) if at is not None), default=None)
            happened = self._cluster.wait(stop)
            told = [event for event in map(self._carry, happened) if event is not None]
            if not happened and due is not None and due <= self._cluster.now():
                told = list(heapq.heappop(self._heap)[2]())
            if told or not happened:
                return [self._stamped(event) for event in told]

    def restart(self, offset: Seconds = 0.0) -> None:
        """The driver died; the next one reads a date that is wrong by `offset` seconds."""
        self._offset = DATE + offset
        self._cluster.restart()

    def _refuse(self, attempt: AttemptId) -> None:
        detail = "a node of the placement is out of reach"
        failed = GangFailed(at=0.0, attempt=attempt, cause=Cause.START_FAILED, detail=detail)
        self.at(self._cluster.now() + NOTICE_SECONDS / 2, lambda: [failed])

    def _stamped(self, event: Event) -> Event:
        self._count += 1
        error = self._luck.between("stamp", str(self._count), (-self._jitter, self._jitter))
        return replace(event, at=self.now() + error)

    def _carry(self, event: Event) -> Event | None:
        if isinstance(event, NodeJoined | NodeChanged):
            return None if event.node.node_id in self._cut else event
        if not isinstance(event, AttemptEvent):
            return event
        waits = self._cut.get(self._home[event.attempt])
        if waits is not None:
            waits.append(event)
            return None
        self._count += 1
        if self._luck.of("twice", str(self._count)) < self._duplicate:
            later = self._luck.between("twice/when", str(self._count), TWICE_SECONDS)
            self.at(self._cluster.now() + later, lambda: [event])
        return event

    def _part(self, partition: Partition) -> Sequence[Event]:
        node_id = partition.node_id
        if node_id in self._cut or node_id not in self._cluster.nodes:
            return ()
        self._cut[node_id] = []
        self._cluster.sever(node_id, is_spread=True)
        now = self._cluster.now()
        self.at(now + NOTICE_SECONDS, lambda: [NodeLost(at=0.0, node_id=node_id)])
        self.at(now + max(partition.seconds, NOTICE_SECONDS), lambda: self._heal(node_id))
        return ()

    def _heal(self, node_id: NodeId) -> Sequence[Event]:
        said = self._cut.pop(node_id)
        self._cluster.sever(node_id, is_spread=False)
        node = self._cluster.nodes.get(node_id)
        back = [] if node is None else [NodeJoined(at=0.0, node=node)]
        is_first = self._luck.of("heal", f"{node_id}/{self._cluster.now()}") < 0.5
        return [*back, *said] if is_first else [*said, *back]
