"""A gang on Ray: the ranks of one attempt, and how what they say becomes the attempt's one end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.cluster.endings import LOST_CONTACT, Ending, failure
from orchestrator.cluster.meeting import Meeting, Started, meetings, unlike, unseen
from orchestrator.messages import StartGang
from orchestrator.types import AttemptId, Card, Cause, Node, NodeId, Seconds, Share

__all__ = ["CONTACT_SECONDS", "FAREWELL_SECONDS", "GONE_SECONDS", "Gang", "Rank"]

# A rank that lost another tells it at once; that the other's process died is told within a second,
# that its node died after up to 10 s. The cause is worth the wait: nobody trains meanwhile.
CONTACT_SECONDS: Seconds = 10.0
FAREWELL_SECONDS: Seconds = 30.0  # after the end of rank 0, which has recorded all there is
GONE_SECONDS: Seconds = 60.0  # for killed processes to be gone: before, their cards are not free


@dataclass(slots=True, kw_only=True, eq=False)
class Rank:
    """One process of a gang."""

    number: int
    share: Share
    card: Card | None
    actor: Any = None
    waited: Any = None  # the ref of its start or of its training, while it is under way
    started: Started | None = None
    ending: Ending | None = None
    num_gpus: float = 0.0  # what its process holds at Ray

    @property
    def node_id(self) -> NodeId:
        """Where it is."""
        return self.share.node_id

    def __str__(self) -> str:
        pid = self.started.pid if self.started else "(not yet up)"
        return f"process {pid} on {self.node_id}"


class Gang:
    """All ranks of an attempt. Whole or absent: the first that fails ends the others.

    Args:
        order: The attempt.
        cards: The card of each share, in rank order.
    """

    def __init__(self, order: StartGang, cards: Sequence[Card | None]) -> None:
        self.order = order
        self.ranks = tuple(
            Rank(number=number, share=share, card=card)
            for number, (share, card) in enumerate(zip(order.placement.shares, cards, strict=True))
        )
        self.is_running = False
        self.doom: Ending | None = None  # how it ends once its processes are gone
        self.gone_by: Seconds = 0.0  # the end is told then, whether they are or not
        self._contact_lost: Seconds | None = None
        self._farewell: Seconds | None = None

    @classmethod
    def of(cls, order: StartGang, node_of: Callable[[NodeId], Node | None]) -> "Gang":
        """The gang of an order, with the cards that its nodes have at those places."""
        cards = []
        for share in order.placement.shares:
            node = node_of(share.node_id)
            cards.append(
                next((c for c in node.cards if c.index == share.card), None) if node else None
            )
        return cls(order, cards)

    @property
    def attempt(self) -> AttemptId:
        """Whose ranks these are."""
        return self.order.attempt

    @property
    def is_launched(self) -> bool:
        """True when its processes were asked for, all of them."""
        return self.ranks[0].actor is not None

    @property
    def is_up(self) -> bool:
        """True when every rank has answered."""
        return all(rank.started is not None for rank in self.ranks)

    @property
    def is_gone(self) -> bool:
        """True when nothing more is to be heard of any rank."""
        return all(rank.waited is None for rank in self.ranks)

    @property
    def nodes(self) -> frozenset[NodeId]:
        """Where its ranks are."""
        return frozenset(rank.node_id for rank in self.ranks)

    def told(self, rank: Rank) -> str:
        """How people are told of a rank: by its number only where there are several."""
        return f"rank {rank.number}, {rank}" if len(self.ranks) > 1 else f"worker {rank}"

    def fault_of_start(self) -> Ending | None:
        """Why ranks that are all up cannot train together; None when they can."""
        started = [rank.started for rank in self.ranks if rank.started is not None]
        for rank, one in zip(self.ranks, started, strict=True):
            elsewhere = one.is_elsewhere(rank.card)
            if elsewhere:
                return failure(Cause.START_FAILED, elsewhere)
        places, nodes = [one.place for one in started], [rank.node_id for rank in self.ranks]
        if missing := unseen(places, nodes):
            fix = "fix: keep data and runs on storage that every node has under the same path"
            return failure(Cause.START_FAILED, f"{missing}\n{fix}", "E4120")
        if others := unlike(places, nodes):
            fix = "fix: install the same wheels on every node, or keep the gang on one node"
            return failure(Cause.USER_ERROR, f"the nodes differ: {others}\n{fix}", "E4121")
        return None

    def meetings(self, timeout: Seconds) -> tuple[Meeting | None, ...]:
        """What each rank is told of the others; None for a gang of one."""
        started = [rank.started for rank in self.ranks if rank.started is not None]
        return meetings(started, timeout) if len(started) > 1 else (None,)

    def kill(self) -> None:
        """End its processes; what is waited for answers with the death."""
        for rank in self.ranks:
            if rank.actor is not None:
                ray.kill(rank.actor)

    def verdict(self, now: Seconds) -> Ending | None:
        """How the attempt ends, as far as its ranks have told; None while it goes on.

        A rank's own failure ends it at once. That others are out of reach is no cause: it waits a
        while for theirs. Without a failure rank 0 decides, who records what the gang does.
        """
        failed = [r for r in self.ranks if r.ending is not None and r.ending.cause is not None]
        for rank in failed:
            assert rank.ending is not None
            if rank.ending.code != LOST_CONTACT:
                return self._named(rank, rank.ending)
        if failed:
            self._contact_lost = self._contact_lost or now
            if now - self._contact_lost < CONTACT_SECONDS and not self.is_gone:
                return None
            assert failed[0].ending is not None
            return self._named(failed[0], failed[0].ending)
        first = self.ranks[0].ending
        if first is None:
            return None
        self._farewell = self._farewell or now
        return first if self.is_gone or now - self._farewell >= FAREWELL_SECONDS else None

    def _named(self, rank: Rank, ending: Ending) -> Ending:
        assert ending.cause is not None
        if len(self.ranks) == 1 or ending.detail.startswith(self.told(rank)):
            return ending
        return failure(ending.cause, f"{self.told(rank)}: {ending.detail}", ending.code)
