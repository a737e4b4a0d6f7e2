"""Cards and nodes on which unlike runs fail one after the other: put aside, tried again later.

One run that fails wherever it goes is at fault itself. A card on which *different* runs fail, with
no success in between, is not trusted any more: no new gang goes there. After a time it is tried
with one run; if that fails in the same way it is put aside for twice as long, and in the end until
a person says that it is mended. All of this is a fold over the events, like everything here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.schedule.cards import CardRoom, NodeRoom
from orchestrator.schedule.ledger import Ledger
from orchestrator.types import Cause, NodeId, RunId, RunSpec, Seconds, Share

__all__ = ["Health"]

# A fault that the card itself reports counts more than a process that died, which has many reasons.
_HARD = frozenset({Cause.DEVICE_FAULT, Cause.HANG})
_SOFT = frozenset({Cause.START_FAILED, Cause.WORKER_LOST})
_MANY_RUNS = 3  # of any cause; or two runs of different projects, when both causes are hard
ASIDE_SECONDS = 600.0  # the first time; twice as long each further time
MAX_TIMES = 4  # then until a person says that it is mended

_Place: TypeAlias = tuple[NodeId, int | None]  # a card, or with None the node as a whole


@dataclass(frozen=True, slots=True)
class _Failure:
    project: str
    cause: Cause
    cards: tuple[int | None, ...]


@dataclass(slots=True)
class _Story:
    """What happened at one place since the last success."""

    failures: dict[RunId, _Failure] = field(default_factory=dict)
    times: int = 0  # it was put aside
    is_aside: bool = False
    is_on_trial: bool = False
    until: Seconds | None = None  # aside for ever when None

    @property
    def is_suspect(self) -> bool:
        if self.is_on_trial and self.failures:
            return True
        hard = [failure for failure in self.failures.values() if failure.cause in _HARD]
        return len(self.failures) >= _MANY_RUNS or len({f.project for f in hard}) > 1

    def words(self, place: str) -> str:
        """Why, for people."""
        causes = dict.fromkeys(str(failure.cause) for failure in self.failures.values())
        runs = ", ".join(self.failures)
        return f"{place} was put aside after {' and '.join(causes)} of {runs}"


class Health:
    """Keeps the story of every place where something failed, and shuts what is not trusted.

    Never shut is more than half of the cards, nor the last one; for ever only where another card
    of the kind stays in service. So a run of one card always has one to wait for.

    Args:
        ledger: Whose cards are shut and opened.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stories: dict[_Place, _Story] = {}
        self._noted: set[NodeId] = set()  # nodes with a story: every epoch asks for them
        self._next: Seconds | None = None
        self._is_stale = False  # something was shut or opened since `_next` was looked for
        self._short: set[NodeId] = set()  # nodes whose disk is nearly full

    @property
    def next(self) -> Seconds | None:
        """The moment at which something is tried again."""
        if self._is_stale:
            shut = [story for story in self._stories.values() if story.is_aside]
            times = (story.until for story in shut if story.until is not None)
            self._next, self._is_stale = min(times, default=None), False
        return self._next

    @property
    def is_short_of_disk(self) -> bool:
        """True when no node has room on its disk, so that nothing can start."""
        return bool(self._short) and self._short.issuperset(self._ledger.nodes)

    def failed(self, spec: RunSpec, shares: tuple[Share, ...], cause: Cause, now: Seconds) -> bool:
        """An attempt failed where it held these shares; True when something was put aside."""
        nodes = {share.node_id for share in shares}
        if cause not in _HARD | _SOFT or len(nodes) != 1:
            return False  # of a spread gang nobody knows which node it was
        if cause is Cause.START_FAILED and len(shares) > 1:
            return False  # the gang as such may be what cannot be started
        node_id, cards = shares[0].node_id, tuple(share.card for share in shares)
        places: list[_Place] = [(node_id, None)]
        if len(cards) == 1 and cards[0] is not None:
            places.append((node_id, cards[0]))
        is_changed = False
        for place in reversed(places):  # the card first: if it alone is bad, the node is not
            story = self._stories.setdefault(place, _Story())
            self._noted.add(node_id)
            story.failures[spec.run_id] = _Failure(spec.project, cause, cards)
            if not story.is_aside and story.is_suspect and self._may_shut(place, story):
                self._shut(place, story, now)
                is_changed = True
        return is_changed

    def succeeded(self, shares: Iterable[Share], *, is_finished: bool) -> None:
        """A run completed an epoch, or all of them, on these shares.

        An epoch clears what lost processes made suspect. A fault that the card reported stays
        noted until a run is finished there: an unstable card does complete epochs.
        """
        noted = self._noted
        if not noted:
            return
        for share in shares:
            if share.node_id not in noted:
                continue
            card, node = (share.node_id, share.card), (share.node_id, None)
            for place in (card, node) if share.card is not None else (node,):
                story = self._stories.get(place)
                if story is None or story.is_aside:
                    continue
                kept = {} if is_finished else _hard(story.failures)
                story.failures, story.times = kept, max(story.times - is_finished, 0)
                if story.is_on_trial:
                    story.is_on_trial = False
                    self.apply(share.node_id)
                if not story.failures and not story.times:
                    self._forget(place)

    def trust(self, node_id: NodeId, card: int | None) -> None:
        """A person says that a card, or with None a node and its cards, is mended."""
        for place in tuple(self._stories):
            if place[0] == node_id and card in (None, place[1]):
                self._forget(place)
        self.apply(node_id)

    def try_again(self, now: Seconds) -> None:
        """What was put aside for long enough takes one run."""
        for place, story in self._stories.items():
            if story.is_aside and story.until is not None and story.until <= now:
                story.is_aside, story.is_on_trial, story.until = False, True, None
                story.failures = {}
                self.apply(place[0])

    def set_back(self, seconds: Seconds) -> None:
        """The clock was set back by so much."""
        self._is_stale = True
        for story in self._stories.values():
            if story.until is not None:
                story.until -= seconds

    def lost(self, now: Seconds) -> None:
        """Nodes are gone: what was shut for ever is tried again where nothing else is left."""
        for place, story in self._stories.items():
            if story.is_aside and story.until is None and not self._has_spare(place):
                story.until = now + ASIDE_SECONDS
                self.apply(place[0])

    def apply(self, node_id: NodeId) -> None:
        """Shut and open the cards of a node as their stories say; also after it joined."""
        self._is_stale = True
        room = self._ledger.nodes.get(node_id)
        if room is None:
            return
        whole = self._stories.get((node_id, None), _Story())
        (self._short.add if room.node.shortage else self._short.discard)(node_id)
        room.aside = room.node.shortage or self._words((node_id, None), whole)
        room.is_on_trial = whole.is_on_trial
        for index, card in room.cards.items():
            story = self._stories.get((node_id, index), _Story())
            aside = self._words((node_id, index), story) or room.aside
            self._ledger.shut(card, aside, is_on_trial=story.is_on_trial and not aside)
        self._ledger.grown[node_id] = None  # it may be open again, to the CPU as well

    def _forget(self, place: _Place) -> None:
        del self._stories[place]
        if not any(other[0] == place[0] for other in self._stories):
            self._noted.discard(place[0])

    def _words(self, place: _Place, story: _Story) -> str:
        if not story.is_aside:
            return ""
        name = place[0] if place[1] is None else f"{place[0]}:{place[1]}"
        return story.words(name)

    def opens_at(self, node_id: NodeId, card: int | None) -> Seconds | None:
        """When a place that is aside is tried again; None when only a person can tell."""
        stories = [self._stories.get(place) for place in ((node_id, None), (node_id, card))]
        shut = [story for story in stories if story is not None and story.is_aside]
        if any(story.until is None for story in shut):
            return None
        return max((story.until for story in shut if story.until is not None), default=None)

    def _shut(self, place: _Place, story: _Story, now: Seconds) -> None:
        story.times += 1
        story.is_aside, story.is_on_trial = True, False
        is_for_ever = story.times >= MAX_TIMES and self._has_spare(place)
        seconds = ASIDE_SECONDS * 2.0 ** min(story.times - 1, MAX_TIMES)
        story.until = None if is_for_ever else now + seconds
        self.apply(place[0])

    def _may_shut(self, place: _Place, story: _Story) -> bool:
        """True when enough stays in service; for a node, when it is not just one of its cards."""
        rooms, cards = self._ledger.nodes, list(self._ledger.cards())
        room = rooms.get(place[0])
        if room is None:
            return False
        if place[1] is None:
            seen = {card for failure in story.failures.values() for card in failure.cards}
            if room.cards and len(seen) < 2:
                return False
            if not cards:
                return any(other is not room and not other.aside for other in rooms.values())
        shut = [card for card in cards if card.aside or _is_at(card, place, room)]
        return len(shut) < len(cards) and len(shut) * 2 <= len(cards)

    def _has_spare(self, place: _Place) -> bool:
        """True when of every kind of card that is shut here another one is in service."""
        room = self._ledger.nodes.get(place[0])
        if room is None:
            return True  # it is gone; nothing waits for it
        cards = list(self._ledger.cards())
        kinds = {card.pool.kind for card in cards if _is_at(card, place, room)}
        spare = {c.pool.kind for c in cards if not c.aside and not _is_at(c, place, room)}
        if not kinds:
            return any(not r.aside for r in self._ledger.nodes.values() if r is not room)
        return kinds <= spare


def _is_at(card: CardRoom, place: _Place, room: NodeRoom) -> bool:
    return card.node is room and place[1] in (None, card.card.index)


def _hard(failures: dict[RunId, _Failure]) -> dict[RunId, _Failure]:
    return {run_id: failure for run_id, failure in failures.items() if failure.cause in _HARD}
