"""Cards filled with one run or two so that the total worth is greatest: greedy, then exchanges.

Runs with equal figures are one class, equal cards one group, and only their numbers are kept: so
the work grows with the kinds of runs and cards, not with how many there are.

With pairs the problem is a maximum-weight matching in which each kind of card may be used a limited
number of times, and no efficient exact method for that is known. So runs are first placed one
after the other where they add most, as in greedy maximisation of a set function. Then two cards at
a time, and one waiting run at most, are filled anew in the best way, until no such exchange gains
anything: 2-exchange local search. Of a few cards the best filling is searched for in the end. No
step loses worth, and each is bounded by a number of looks, so equal input gives equal output.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations, combinations_with_replacement
from typing import TypeAlias

from orchestrator.schedule.branch import best_filling

__all__ = ["NEVER", "Fill", "Worth", "pack"]

Fill: TypeAlias = tuple[int, tuple[int, ...]]  # group of the card, classes of its runs, sorted
Worth: TypeAlias = Callable[[int, tuple[int, ...]], float]  # of a fill; `NEVER` if it cannot be
_Plan: TypeAlias = tuple[tuple[int, ...], ...]  # per card, places in the list of runs at hand

NEVER = float("-inf")
MAX_RUNS = 2  # on one card; nothing is measured of three
EPSILON = 1e-9  # relative; a smaller gain is the rounding of floating-point numbers
# Cards that are filled anew at a time, and waiting runs that join in: the cheapest first.
_WAYS = ((1, 1), (2, 0), (1, 2), (2, 1))
FEW_CARDS = 8  # up to here the best filling is searched for
MAX_OFFERS = 20_000  # runs weighed on cards at a time
NUM_OFFERINGS = 2  # the second is for those whose offers others were faster to take
MAX_LOOKS = 30_000  # arrangements looked at before the result is taken as it is


def pack(runs: Sequence[int], cards: Sequence[int], worth: Worth) -> dict[Fill, int]:
    """Fill cards with runs.

    Args:
        runs: Number of runs of each class; on equal worth the first class goes first.
        cards: Number of cards of each group; on equal worth the first group is filled first.
        worth: What a card of a group is worth with these classes on it, against an empty card,
            which is worth 0.

    Returns:
        How many cards have which fill, the empty ones included. What is not on a card waits.
    """
    filling = _Filling(runs, cards, worth)
    filling.place()
    filling.exchange()
    if sum(cards) <= FEW_CARDS:
        filling.search(runs, cards)
    return {fill: num for fill, num in filling.cards.items() if num}


class _Filling:
    """Which cards hold what, as numbers; every change adds worth."""

    def __init__(self, runs: Sequence[int], cards: Sequence[int], worth: Worth) -> None:
        self.waiting = list(runs)
        self.cards: dict[Fill, int] = {(group, ()): num for group, num in enumerate(cards) if num}
        self._worth = cache(worth)
        self._looks = MAX_LOOKS

    def place(self) -> None:
        """Place one run after the other where it adds most: first on free cards, then as second."""
        for size in range(MAX_RUNS):
            fills = sorted(fill for fill, num in self.cards.items() if num and len(fill[1]) == size)
            for _ in range(NUM_OFFERINGS):
                self._place_on(fills)
            if not size:
                self._place_rest(fills)

    def _place_on(self, fills: Sequence[Fill]) -> None:
        offers = [offer for at, fill in enumerate(fills) for offer in self._offers(at, fill, fills)]
        heapq.heapify(offers)
        while offers:
            _, run, fill = heapq.heappop(offers)
            num = min(self.waiting[run], self.cards[fill])
            if num:
                fuller = (fill[0], tuple(sorted((*fill[1], run))))
                self._change((fill,), (fuller,), num)

    def _place_rest(self, fills: Sequence[Fill]) -> None:
        """Leave no free card to itself that a waiting run could use, however many there are."""
        for run in self._who_waits():
            for fill in fills:
                num = min(self.waiting[run], self.cards[fill])
                if num and self._worth(fill[0], (run,)) > EPSILON:
                    self._change((fill,), ((fill[0], (run,)),), num)

    def _offers(
        self, at: int, fill: Fill, fills: Sequence[Fill]
    ) -> Iterator[tuple[float, int, Fill]]:
        """Gains (negative) of a run more on a card, of as many classes as there is time for."""
        waiting = self._who_waits()
        most = max(1, MAX_OFFERS // len(fills))
        if len(waiting) > most:  # each fill gets others, so that each class gets some
            start = at * most % len(waiting)
            waiting = [*waiting[start:], *waiting[:start]][:most]
        group, there = fill
        before = self._worth(group, there)
        for run in waiting:
            gain = self._worth(group, tuple(sorted((*there, run)))) - before
            if gain > EPSILON:
                yield -gain, run, fill

    def exchange(self) -> None:
        """Fill cards anew while that gains, always in the cheapest way that still does."""
        while any(self._sweep(way) for way in _WAYS):
            pass

    def _sweep(self, way: tuple[int, int]) -> bool:
        """Try one way of filling anew on all cards; True when something was gained."""
        num_cards, num_waiting = way
        has_gained = False
        fills = sorted(fill for fill, num in self.cards.items() if num)
        waiting = self._who_waits()
        if num_waiting and not waiting:
            return False
        for chosen in combinations_with_replacement(fills, num_cards):
            is_changed = False
            for extra in combinations_with_replacement(waiting, num_waiting):
                if self._looks <= 0:
                    return False
                is_changed |= self._refill(chosen, extra)
            if is_changed:
                has_gained, waiting = True, self._who_waits()
        return has_gained

    def _who_waits(self) -> list[int]:
        return [run for run, num in enumerate(self.waiting) if num]

    def _refill(self, chosen: tuple[Fill, ...], extra: tuple[int, ...]) -> bool:
        self._looks -= 1
        num = self._num(chosen, extra)
        if not num:
            return False
        hand = tuple(run for _, there in chosen for run in there) + extra
        before = sum(self._worth(*fill) for fill in chosen)
        best, found = before + EPSILON * max(1.0, abs(before)), None
        for plan in _plans(len(hand), len(chosen)):
            self._looks -= 1
            total = 0.0
            for (group, _), places in zip(chosen, plan, strict=True):
                total += self._worth(group, _sorted(hand, places))
            if total > best:
                best, found = total, plan
        if found is None:
            return False
        after = tuple(
            (group, _sorted(hand, places)) for (group, _), places in zip(chosen, found, strict=True)
        )
        self._change(chosen, after, num)
        return True

    def search(self, runs: Sequence[int], cards: Sequence[int]) -> None:
        """Take the best filling of all where it is found soon and is better."""
        total = sum(self._worth(*fill) * num for fill, num in self.cards.items() if num)
        above = total + EPSILON * max(1.0, abs(total))
        found = best_filling(runs, cards, self._worth, above=above, most=MAX_RUNS)
        if found is not None:
            self.cards = dict(Counter(found))

    def _num(self, chosen: tuple[Fill, ...], extra: tuple[int, ...]) -> int:
        """How often these cards with these waiting runs are there."""
        nums = [self.cards[fill] // chosen.count(fill) for fill in chosen]
        return min(*nums, *(self.waiting[run] // extra.count(run) for run in extra), 1 << 60)

    def _change(self, before: tuple[Fill, ...], after: tuple[Fill, ...], num: int) -> None:
        for fills, by in ((before, -num), (after, num)):
            for fill in fills:
                self.cards[fill] = self.cards.get(fill, 0) + by
                for run in fill[1]:
                    self.waiting[run] -= by


def _sorted(hand: tuple[int, ...], places: tuple[int, ...]) -> tuple[int, ...]:
    runs = [hand[place] for place in places]
    if len(runs) == MAX_RUNS and runs[0] > runs[1]:
        runs.reverse()
    return tuple(runs)


@cache
def _plans(num_runs: int, num_cards: int) -> tuple[_Plan, ...]:
    """All ways to put runs on cards that leave at most one more of them out than must be."""
    most = min(num_runs, num_cards * MAX_RUNS)
    return tuple(
        plan
        for plan in _all_plans(frozenset(range(num_runs)), num_cards)
        if sum(map(len, plan)) >= most - 1
    )


def _all_plans(places: frozenset[int], num_cards: int) -> Iterator[_Plan]:
    if not num_cards:
        yield ()
        return
    for size in range(MAX_RUNS + 1):
        for mine in combinations(sorted(places), size):
            for rest in _all_plans(places.difference(mine), num_cards - 1):
                yield (mine, *rest)
