"""The rungs of the ladder that a training may still take while it runs, in the config's order."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from orchestrator.messages import GivenUp
from orchestrator.plan.ladder import Rung

__all__ = ["ALL", "BETWEEN_STEPS", "IN_UPDATE", "Offer", "Rungs"]

ALL = frozenset(Rung)
BETWEEN_STEPS = ALL - {Rung.CHECKPOINTING}
"""What lowers the memory of validation, which keeps no activations."""
IN_UPDATE = frozenset({Rung.OPTIMIZER_8BIT, Rung.OPTIMIZER_HOST})
"""What lowers the memory of an optimizer's update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a trainer can do for a rung.

    `setting` says what would hold with it, or None where it would win nothing now: it is asked
    each time. `take` changes the running attempt; without one only the next attempt can.
    """

    setting: Callable[[], str | None]
    take: Callable[[], None] | None = None


class Rungs:
    """Takes one rung after the other, in the order that the config gives.

    Args:
        order: The rungs that the config allows, the first to be taken first.
        taken: What earlier attempts of the run took, as `GivenUp` writes it.
        everybody: Of a gang: True when what was said is true on every rank.
    """

    def __init__(
        self,
        order: Iterable[Rung],
        *,
        taken: Iterable[str] = (),
        everybody: Callable[[bool], bool] = bool,
    ) -> None:
        self._order = [rung for rung in order if rung not in (Rung.CUT, Rung.MODEL)]
        self._taken = list(taken)
        self._everybody = everybody
        self._offers: dict[Rung, Offer] = {}

    @property
    def taken(self) -> tuple[str, ...]:
        """What the run has given up while it trained, earlier attempts included."""
        return tuple(self._taken)

    def offer(self, rung: Rung, offer: Offer) -> None:
        """Let a rung be taken from now on."""
        self._offers[rung] = offer

    def next(self, helps: Collection[Rung] = ALL, *, is_live: bool = True) -> GivenUp | None:
        """Take the next rung that helps; None when none is left. If live, all ranks call it alike.

        Args:
            helps: Rungs that lower the memory of what ran out.
            is_live: Whether the running attempt may change; else a rung is only named.
        """
        for rung in self._order:
            offer = self._offers.get(rung)
            setting = offer.setting() if offer is not None and rung in helps else None
            # A rank that only names a rung ends here, and no other may be there to answer.
            if is_live and not self._everybody(setting is not None):
                continue
            if offer is None or setting is None:
                continue
            take = offer.take if is_live else None
            if take is not None:
                take()
            del self._offers[rung]
            given = GivenUp(rung=rung.value, setting=setting, is_live=take is not None)
            self._taken = [one for one in self._taken if GivenUp.parse(one).rung != given.rung]
            self._taken.append(str(given))
            return given
        return None
