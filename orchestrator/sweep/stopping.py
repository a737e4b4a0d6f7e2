"""Early stopping as a fold over reports: asynchronous successive halving, alone or in brackets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Brackets", "Halving", "NeverStop", "Rung", "Stopper", "stopper_of"]


@dataclass(slots=True)
class Rung:
    """The scores with which trials reached an epoch, in the order of reporting."""

    epoch: int
    scores: dict[int, float] = field(default_factory=dict)  # by trial


class Stopper(Protocol):
    """Decides which trials go on. Its state is what it was told, in that order."""

    @property
    def rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """Every bracket's rungs, the lowest first."""
        ...

    def report(self, trial: int, epoch: int, score: float) -> bool:
        """Take an epoch's score, the higher the better; True: the trial stops here."""
        ...


class NeverStop:
    """Lets every trial train to its end."""

    @property
    def rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """None."""
        return ()

    def report(self, trial: int, epoch: int, score: float) -> bool:
        """Never stop."""
        return False


class Halving:
    """Asynchronous successive halving (ASHA), as Li et al. 2020 (arXiv 1810.05934), section 3.1.

    In its stopping form, which Ray Tune has as well: a trial that reaches a rung goes on when it is
    among the best `1 / reduction` of those that have reached it so far, else it stops.

    Args:
        grace: Epochs of the lowest rung.
        reduction: One of so many trials goes on.
        epochs: Of a whole training; no rung is there.
    """

    def __init__(self, *, grace: int, reduction: int, epochs: int) -> None:
        if grace < 1 or reduction < 2 or epochs < 1:
            raise ValueError("needs grace >= 1, reduction >= 2 and epochs >= 1")
        self._reduction = reduction
        self._rungs: list[Rung] = []
        at = grace
        while at < epochs:
            self._rungs.append(Rung(at))
            at *= reduction

    @property
    def rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """The rungs, the lowest first."""
        return (tuple(self._rungs),)

    def report(self, trial: int, epoch: int, score: float) -> bool:
        """Take an epoch's score; True: the trial stops here."""
        rung = next((rung for rung in self._rungs if rung.epoch == epoch), None)
        if rung is None or trial in rung.scores:
            return False
        rung.scores[trial] = score
        better = sum(other > score for other in rung.scores.values())
        return better >= max(1, len(rung.scores) // self._reduction)


class Brackets:
    """Asynchronous HyperBand: brackets of `Halving`, each with a longer grace than the one before.

    Trials go to brackets in turn, in the proportions of Li et al. 2018 (arXiv 1603.06560): a
    bracket that stops more starts more.

    Args:
        grace: Epochs of the lowest rung of the first bracket.
        reduction: One of so many trials goes on.
        epochs: Of a whole training.
    """

    def __init__(self, *, grace: int, reduction: int, epochs: int) -> None:
        self._halvings: list[Halving] = []
        at = grace
        while at < epochs or not self._halvings:
            self._halvings.append(Halving(grace=at, reduction=reduction, epochs=epochs))
            at *= reduction
        count = len(self._halvings)
        parts = [-(-count * reduction**power // (power + 1)) for power in reversed(range(count))]
        self._turns = _spread(parts)

    @property
    def rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """The rungs of every bracket."""
        return tuple(halving.rungs[0] for halving in self._halvings)

    def report(self, trial: int, epoch: int, score: float) -> bool:
        """Take an epoch's score; True: the trial stops here."""
        bracket = self._turns[(trial - 1) % len(self._turns)]
        return self._halvings[bracket].report(trial, epoch, score)


def _spread(parts: Sequence[int]) -> tuple[int, ...]:
    """Indices, each as often as its part says, and each spread evenly over all of them."""
    places = [((k + 0.5) / part, at) for at, part in enumerate(parts) for k in range(part)]
    return tuple(at for _, at in sorted(places))


def stopper_of(scheduler: str, *, grace: int, reduction: int, epochs: int) -> Stopper:
    """The stopper of a scheduler's name: `asha`, `hyperband`; all others never stop."""
    if scheduler == "asha":
        return Halving(grace=grace, reduction=reduction, epochs=epochs)
    if scheduler == "hyperband":
        return Brackets(grace=grace, reduction=reduction, epochs=epochs)
    return NeverStop()
