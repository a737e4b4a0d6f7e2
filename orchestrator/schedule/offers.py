"""What an autoscaler offers, what was asked of it and since when, and for whom a node has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.types import NodeId, NodeType, RunId, Seconds

__all__ = ["Asked", "NewNode", "Offers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewNode:
    """A node to ask for, and the runs that it is asked for, in the order of the queue."""

    node_type: str
    runs: tuple[RunId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Nodes of a type that were asked for a run, and when the run was first among the reasons."""

    node_type: str
    num: int
    since: Seconds


@dataclass(slots=True)
class Offers:
    """Changed by `schedule.scaling` only.

    `planned` are nodes that were asked for and have not come; `brought` are nodes that have, and
    the runs that they are kept for, as long as one of them waits for more nodes.
    """

    node_types: tuple[NodeType, ...] = ()
    spare_seconds: Seconds = 0.0
    late_after_seconds: Seconds = 0.0
    asked: Mapping[RunId, Asked] = field(default_factory=dict)
    left_out: frozenset[RunId] = frozenset()  # as many nodes as may be are too few for them
    planned: list[NewNode] = field(default_factory=list)
    brought: dict[NodeId, tuple[RunId, ...]] = field(default_factory=dict)
    counts: tuple[tuple[str, int], ...] | None = None  # asked last; None: nobody knows
    look_at: Seconds | None = None

    @property
    def is_used(self) -> bool:
        """True where nodes can be asked for, or were."""
        return bool(self.node_types or self.counts)

    def set_back(self, seconds: Seconds) -> None:
        """The clock was set back by so much."""
        self.asked = {r: replace(a, since=a.since - seconds) for r, a in self.asked.items()}
        if self.look_at is not None:
            self.look_at -= seconds

    def named(self, name: str) -> NodeType | None:
        """The type of this name."""
        return next((each for each in self.node_types if each.name == name), None)

    def keeps_out(self, run_id: RunId, node_id: NodeId) -> bool:
        """True when a node has come for other runs."""
        runs = self.brought.get(node_id)
        return runs is not None and run_id not in runs

    def is_late(self, run_id: RunId, now: Seconds) -> bool:
        """True when what was asked for a run should have come by now."""
        asked = self.asked.get(run_id)
        return asked is not None and now - asked.since >= self.late_after_seconds
