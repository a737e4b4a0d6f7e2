"""The best filling of a few cards by branch and bound, as far as a bounded search gets.

Cards are filled one after the other, the most promising fill first. A branch is left where even
the best fill of every further card, each chosen as if it were the only one, cannot beat what is
known.
"""

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import TypeAlias

__all__ = ["MAX_NODES", "best_filling"]

_Runs: TypeAlias = tuple[int, ...]
_Option: TypeAlias = tuple[float, _Runs]

MAX_NODES = 1_500  # fills tried before it is given up; four cards and six runs take half of it
MAX_OPTIONS = 4_000  # fills of one card that are looked at, over all groups


def best_filling(
    runs: Sequence[int],
    cards: Sequence[int],
    worth: Callable[[int, _Runs], float],
    *,
    above: float,
    most: int,
) -> list[tuple[int, _Runs]] | None:
    """The filling of greatest worth.

    Args:
        runs: Number of runs of each class.
        cards: Number of cards of each group.
        worth: What a card of a group is worth with these classes on it, sorted; 0 when empty.
        above: Only a filling that is worth more than this is of interest.
        most: Runs on one card.

    Returns:
        Group and classes of every card; after `MAX_NODES` the best until then. None when nothing
        that is worth more than `above` was found.
    """
    classes = [run for run, num in enumerate(runs) if num]
    groups = [group for group, num in enumerate(cards) if num]
    if len(groups) * len(classes) ** most > MAX_OPTIONS * most:
        return None
    options: dict[int, list[_Option]] = {}
    for group in groups:
        fills = (
            there
            for size in range(1, most + 1)
            for there in combinations_with_replacement(classes, size)
        )
        known = [(worth(group, there), there) for there in fills]
        options[group] = [(0.0, ()), *((value, there) for value, there in known if value > 0)]
        options[group].sort(key=lambda option: (-option[0], option[1]))
    order = sorted(groups, key=lambda group: (-options[group][0][0], group))
    search = _Search(list(runs), [group for group in order for _ in range(cards[group])], options)
    search.best = above
    search.fill(0, 0.0, 0)
    return search.found


class _Search:
    """Depth first over the cards; equal cards take fills in order, so none is tried twice."""

    def __init__(
        self, left: list[int], cards: list[int], options: dict[int, list[_Option]]
    ) -> None:
        self.left, self.cards, self.options = left, cards, options
        self.best = 0.0
        self.nodes = 0
        self.found: list[tuple[int, _Runs]] | None = None
        self._path: list[tuple[int, _Runs]] = []

    def fill(self, at: int, total: float, first: int) -> None:
        """Try every fill of a card from the `first` on that may lead to more than the best."""
        if at == len(self.cards):
            if total > self.best:
                self.best, self.found = total, list(self._path)
            return
        group = self.cards[at]
        hoped = sum(self._hope(later) for later in self.cards[at + 1 :])
        is_same_next = at + 1 < len(self.cards) and self.cards[at + 1] == group
        for place in range(first, len(self.options[group])):
            value, there = self.options[group][place]
            if total + value + hoped <= self.best or self.nodes > MAX_NODES:
                return
            self.nodes += 1
            if self._can(there):
                self._take(there, 1)
                self._path.append((group, there))
                self.fill(at + 1, total + value, place if is_same_next else 0)
                self._path.pop()
                self._take(there, -1)

    def _hope(self, group: int) -> float:
        return next(value for value, there in self.options[group] if self._can(there))

    def _can(self, there: _Runs) -> bool:
        return all(self.left[run] >= there.count(run) for run in there)

    def _take(self, there: _Runs, num: int) -> None:
        for run in there:
            self.left[run] -= num
