"""A cluster whose nodes take nothing new while a disk that runs write to is nearly full."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from orchestrator.messages import Action, Event, NodeChanged, NodeJoined, NodeLost, StartGang
from orchestrator.ports import Clock, Cluster
from orchestrator.types import Bytes, Node, NodeId, Seconds

__all__ = ["DiskWatch", "TimedCluster"]

_LOOK_SECONDS: Seconds = 5.0
_MORE = 1.1  # of the reserve has to be free before runs start again: no coming and going


class TimedCluster(Cluster, Clock, Protocol):
    """A cluster that is the clock of its events too."""


class DiskWatch:
    """Implements Cluster and Clock around another one, whose nodes take what the disks allow.

    Checkpoints and the store lie on disks that all nodes of a cluster share, or on that of the
    only node, so the driver's view is every node's. What runs goes on: it has what it needs, and
    where its disk is full all the same, its attempt ends with that cause and is tried again.

    Args:
        cluster: The one within.
        folders: What is watched from the first; the folders of runs come along as they start.
        reserve_bytes: Less is nearly full.
        free: Bytes that are free on the disk of a folder.
    """

    def __init__(
        self,
        cluster: TimedCluster,
        *,
        folders: Iterable[Path],
        reserve_bytes: Bytes,
        free: Callable[[Path], Bytes],
    ) -> None:
        self._cluster = cluster
        self._folders = dict.fromkeys(folders)
        self._reserve = reserve_bytes
        self._free = free
        self._nodes: dict[NodeId, Node] = {}
        self._shortage = ""
        self._looked_at: Seconds | None = None

    def now(self) -> Seconds:
        """The time of the cluster within."""
        return self._cluster.now()

    def apply(self, action: Action) -> None:
        """Hand an action on; from now on the disk of a run that starts is watched too."""
        if isinstance(action, StartGang):
            self._folders[Path(action.spec.folder).parent] = None
        self._cluster.apply(action)

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        """What happened, with nodes as the disks allow; raises as the cluster within does."""
        now = self.now()
        if self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            before, self._shortage = self._shortage, self._look()
            if self._nodes and bool(before) != bool(self._shortage):
                nodes = (replace(node, shortage=self._shortage) for node in self._nodes.values())
                return [NodeChanged(at=now, node=node) for node in nodes]
        if self._shortage:  # nothing may happen before there is room
            until = min(now + _LOOK_SECONDS, float("inf") if until is None else until)
        return [self._seen(event) for event in self._cluster.wait(until)]

    def _seen(self, event: Event) -> Event:
        match event:
            case NodeJoined(node=node) | NodeChanged(node=node):
                self._nodes[node.node_id] = node
                return replace(event, node=replace(node, shortage=self._shortage))
            case NodeLost(node_id=node_id):
                self._nodes.pop(node_id, None)
            case _:
                pass
        return event

    def _look(self) -> str:
        """Which disk is nearly full, with numbers; empty when none is."""
        wanted = self._reserve * (_MORE if self._shortage else 1.0)
        for folder in self._folders:
            place = next((each for each in (folder, *folder.parents) if each.exists()), None)
            if place is not None and (free := self._free(place)) < wanted:
                kept = f"{self._reserve / 1e9:.1f} GB are kept in reserve"
                return f"the disk of {folder} is nearly full: {free / 1e9:.1f} GB are free, {kept}"
        return ""
