"""Who holds which cards and CPUs, as the record of a driver tells; the laws I7 and I8 about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.messages import Event, NodeChanged, NodeJoined, NodeLost, StartGang
from orchestrator.types import AttemptId, Node, NodeId, RunStatus, Seconds, Share

__all__ = ["SLACK", "Gang", "LawBrokenError", "Rooms", "check_times", "demand"]

SLACK: Seconds = 6.0  # smaller corrections of a date are not seen as such


class LawBrokenError(AssertionError):
    """A law of the contract does not hold; `law` names it."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


def demand(law: str, holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise LawBrokenError unless a law holds."""
    if not holds:
        raise LawBrokenError(law, what)


@dataclass(slots=True)
class Gang:
    """An attempt that was started and has not ended, as far as the record tells."""

    start: StartGang
    since: Seconds
    shares: list[Share]  # without those of lost nodes
    up_at: Seconds | None = None
    asked: bool = False  # to leave, or killed
    killed_at: Seconds | None = None  # the last time

    def come_up(self, now: Seconds) -> None:
        """It was told to have started; a message that comes twice tells nothing new."""
        if self.up_at is None:
            self.up_at = now

    def check_time(self, now: Seconds, grace: Seconds) -> None:
        """It lives and completed an epoch: was it time to end it, or to kill it again?

        Raises:
            LawBrokenError: I9 or I12.
        """
        name, limit = str(self.start.attempt), self.start.spec.max_duration_seconds
        if self.up_at is not None and limit is not None and not self.asked:
            ran = now - self.up_at
            demand("I9", ran <= limit + SLACK, f"{name} may run {limit:.0f} s, ran {ran:.0f}")
        if self.killed_at is not None and self.shares:
            demand("I12", now - self.killed_at <= grace, f"{name} is not killed again")


@dataclass(slots=True)
class Rooms:
    """The nodes and the gangs on them."""

    nodes: dict[NodeId, Node] = field(default_factory=dict)
    gangs: dict[AttemptId, Gang] = field(default_factory=dict)

    def happened(self, event: Event) -> Iterator[AttemptId]:
        """A node came, changed or went; yields the attempts that lost a share with it."""
        match event:
            case NodeJoined(node=node):
                self.nodes[node.node_id] = node
            case NodeChanged(node=node) if node.node_id in self.nodes:
                self.nodes[node.node_id] = node
            case NodeLost(node_id=node_id):
                self.nodes.pop(node_id, None)
                for attempt, gang in self.gangs.items():
                    kept = [share for share in gang.shares if share.node_id != node_id]
                    if len(kept) < len(gang.shares):
                        gang.shares = kept
                        yield attempt
            case _:
                pass

    def start(self, start: StartGang, now: Seconds) -> None:
        """A gang takes its shares.

        Raises:
            LawBrokenError: I7, an earlier attempt of the run still holds cards; I8, the gang is not
                whole, a node is not there, or something is given twice.
        """
        attempt = start.attempt
        for other in [one for one in self.gangs if one.run_id == attempt.run_id]:
            gone = self.gangs.pop(other)
            demand("I7", not gone.shares, f"{attempt} starts, and {other} has not ended")
        self.gangs[attempt] = Gang(start, now, list(start.placement.shares))
        is_whole = start.placement.world_size == start.spec.num_gpus
        demand("I8", is_whole, f"{attempt} is not whole")
        for share in start.placement.shares:
            node = self.nodes.get(share.node_id)
            if node is None:
                raise LawBrokenError("I8", f"{attempt} starts on {share.node_id}, which is lost")
            self._check(share, node)

    def _check(self, share: Share, node: Node) -> None:
        users = [
            (gang, held)
            for gang in self.gangs.values()
            for held in gang.shares
            if held.node_id == share.node_id
        ]
        cpus = sum(held.num_cpus for _, held in users)
        demand("I8", cpus <= node.num_cpus + 1e-6, f"{cpus} CPUs of {share.node_id} are given")
        if share.card is None:
            return
        card = next(card for card in node.cards if card.index == share.card)
        mine = [(gang, held) for gang, held in users if held.card == share.card]
        num_bytes, room = sum(held.memory_bytes for _, held in mine), card.memory_bytes
        demand("I8", num_bytes <= room - card.foreign_bytes, f"{num_bytes} of {room} on {share}")
        wants_whole = any(gang.start.spec.memory_bytes is None for gang, _ in mine)
        demand("I8", len(mine) == 1 or not wants_whole, f"{share} is not alone on its card")


def check_times(status: RunStatus) -> None:
    """I9: no run takes negative time."""
    moments = (status.submitted_at, status.started_at, status.ended_at)
    known = [moment for moment in moments if moment is not None]
    is_sorted = all(a <= b + 1e-6 for a, b in pairwise(known))
    demand("I9", is_sorted, f"{status.run_id} took negative time: {known}")
