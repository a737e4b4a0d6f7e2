"""Fair shares: what each queue has had of the cluster, by what its cards are worth, and its quota.

A queue's *use* is the sum over its runs of card-seconds times the worth of the card, halved every
`half_life_seconds`, so that what happened long ago is forgiven. Among runs of one priority the
queue goes first whose use divided by its weight is least. What runs now counts as if it went on
for `HORIZON_SECONDS`: otherwise the first queue of an idle cluster would take all of it at once.
"""

from dataclasses import dataclass, field
from math import log

from orchestrator.types import QueueRule, Seconds

__all__ = ["FairShare"]

HALF_LIFE_SECONDS: Seconds = 24 * 3600.0
HORIZON_SECONDS: Seconds = 600.0


@dataclass(slots=True)
class _Use:
    """Worth-seconds of one queue as they stood at `since`, and what has been held from then on."""

    past: float = 0.0
    since: Seconds = 0.0
    worth: float = 0.0  # of the cards held now
    num_gpus: float = 0.0  # held now; a share of a card counts as that part of it


@dataclass(slots=True)
class FairShare:
    """Changed when gangs start and end, and when a person changes a queue's rule."""

    half_life_seconds: Seconds = HALF_LIFE_SECONDS
    rules: dict[str, QueueRule] = field(default_factory=dict)
    _uses: dict[str, _Use] = field(default_factory=dict)

    def rule(self, queue: str) -> QueueRule:
        """The rule of a queue; one that nobody has set has weight 1 and no quota."""
        return self.rules.get(queue) or QueueRule(name=queue)

    def take(self, queue: str, worth: float, num_gpus: float, now: Seconds) -> None:
        """A gang of the queue holds cards from now on; negative numbers when it has left them."""
        use = self._uses.setdefault(queue, _Use(since=now))
        use.past, use.since = self._used(use, now), now
        use.worth += worth
        use.num_gpus += num_gpus
        if abs(use.num_gpus) < 1e-9:  # sums of fractions do not come back to zero
            use.worth = use.num_gpus = 0.0

    def set_back(self, seconds: Seconds) -> None:
        """The clock was set back by so much."""
        for use in self._uses.values():
            use.since -= seconds

    def rank(self, queue: str, now: Seconds) -> float:
        """Use over weight: the least goes first. Worth-seconds."""
        use = self._uses.get(queue)
        if use is None:
            return 0.0
        return (self._used(use, now) + use.worth * HORIZON_SECONDS) / self.rule(queue).weight

    def used(self, queue: str, now: Seconds) -> float:
        """What the queue has had, in worth-seconds, after forgiving."""
        use = self._uses.get(queue)
        return 0.0 if use is None else self._used(use, now)

    def num_gpus(self, queue: str) -> float:
        """Cards that the queue's gangs hold now; a share counts as that part of a card."""
        use = self._uses.get(queue)
        return 0.0 if use is None else use.num_gpus

    def allows(self, queue: str, num_gpus: float) -> bool:
        """True when the queue may hold so many more cards."""
        limit = self.rule(queue).max_gpus
        return limit is None or self.num_gpus(queue) + num_gpus <= limit + 1e-9

    def could_ever(self, queue: str, num_gpus: float) -> bool:
        """True when the queue may hold so many cards while it holds nothing else."""
        limit = self.rule(queue).max_gpus
        return limit is None or num_gpus <= limit + 1e-9

    def _used(self, use: _Use, now: Seconds) -> float:
        """The past halved every half life, and the integral of what has been held since."""
        passed = max(now - use.since, 0.0)
        kept: float = 2.0 ** (-passed / self.half_life_seconds)
        held = use.worth * self.half_life_seconds / log(2.0) * (1.0 - kept)
        return use.past * kept + held
