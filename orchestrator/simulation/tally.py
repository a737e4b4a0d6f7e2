"""A Store that keeps counts instead of a journal, for simulations too long to be kept."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.messages import AttemptEvent, Event, GangFailed, ProgressReported
from orchestrator.types import Finding, NodeId, RunId, RunStatus, Seconds, Share

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Fences events as every store does, and measures how long cards are held.

    A card is busy from the order to start a gang on it until the gang is known to be gone; a card
    that is shared is busy once. Nothing can be replayed from it.
    """

    card_names: Mapping[tuple[NodeId, int], str]
    statuses: dict[RunId, RunStatus] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    busy_seconds: defaultdict[str, Seconds] = field(  # by the name of the card
        default_factory=lambda: defaultdict(float)
    )
    num_busy: int = 0
    series: list[tuple[Seconds, int]] = field(default_factory=list)  # busy cards from then on
    _now: Seconds = 0.0
    _epochs: dict[RunId, dict[int, int]] = field(default_factory=dict)  # epoch -> its attempt
    _held: dict[RunId, tuple[int, tuple[Share, ...]]] = field(default_factory=dict)
    _users: dict[tuple[NodeId, int], int] = field(default_factory=dict)
    _since: dict[tuple[NodeId, int], Seconds] = field(default_factory=dict)

    def append(self, event: Event) -> bool:
        """Take notice of an event; False when it is fenced off."""
        self._now = max(self._now, event.at)
        if isinstance(event, AttemptEvent) and not event.is_volatile:
            status = self.statuses.get(event.attempt.run_id)
            if status is None or status.state.is_terminal or status.attempt != event.attempt.number:
                return False
            if isinstance(event, ProgressReported):
                epochs = self._epochs.setdefault(event.attempt.run_id, {})
                if epochs.get(event.progress.epoch, 0) >= event.attempt.number:
                    return False
                epochs[event.progress.epoch] = event.attempt.number
            elif isinstance(event, GangFailed):
                self.failures[event.cause.value] += 1
        return True

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        """Keep the rows, and follow who holds which cards."""
        for status in statuses:
            self.statuses[status.run_id] = status
            placement = status.placement if status.state.holds_gpus else None
            shares = placement.shares if placement is not None else ()
            held = self._held.get(status.run_id)
            if held is not None and held != (status.attempt, shares):
                del self._held[status.run_id]
                self._give_back(held[1])
                held = None
            if held is None and shares:
                self._held[status.run_id] = (status.attempt, shares)
                self._take(shares)
            if status.state.is_terminal:
                self._epochs.pop(status.run_id, None)

    def receive(self, _at: Seconds) -> Sequence[Event]:
        """Nobody asks for anything in a simulation."""
        return ()

    def replay(self) -> Iterator[Event]:
        """Nothing: a simulation begins anew."""
        return iter(())

    def findings(self, _model: str | None = None) -> Sequence[Finding]:
        """Nothing: what is simulated tries no settings."""
        return ()

    def _take(self, shares: Sequence[Share]) -> None:
        for share in shares:
            if share.card is not None:
                card = (share.node_id, share.card)
                self._users[card] = self._users.get(card, 0) + 1
                if self._users[card] == 1:
                    self._since[card] = self._now
                    self.num_busy += 1
        self._note()

    def _give_back(self, shares: Sequence[Share]) -> None:
        for share in shares:
            if share.card is not None:
                card = (share.node_id, share.card)
                self._users[card] -= 1
                if not self._users[card]:
                    self.busy_seconds[self.card_names[card]] += self._now - self._since.pop(card)
                    self.num_busy -= 1
        self._note()

    def _note(self) -> None:
        if self.series and self.series[-1][0] == self._now:
            self.series[-1] = (self._now, self.num_busy)
        else:
            self.series.append((self._now, self.num_busy))
