"""Which waiting runs share a new node, so that all new nodes together cost least.

Runs are put into groups, one a node, and every group is asked as the cheapest type that holds it:
so a dearer type is never asked where a cheaper one does. What a node holds is found out the way the
scheduler fills it: in the order of the queue, each run on the cards that it fits tightest.

To pack things of several sizes into bins of several sizes and prices is NP-hard. A few runs are
grouped in the best of all ways; of many, each joins the group where it adds least to the price, in
the order of the queue and once more with the largest first, beginning groups with the cheapest type
or with a given one, and groups are dissolved and merged while that saves something. The best of
these is taken.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from orchestrator.schedule.asks import Ask
from orchestrator.schedule.vacancy import empty
from orchestrator.types import DeviceKind, NodeType

__all__ = ["Group", "group"]

Group: TypeAlias = tuple[int, tuple[int, ...]]  # place of the type, places of the runs, sorted
_Cost: TypeAlias = tuple[int, int, int]  # runs left out, weighed; price; number of nodes

FEW_RUNS = 7  # up to here the best of all groupings is searched for
SOME_RUNS = 60  # up to here every type is tried as the one that groups begin with
MAX_LOOKS = 5_000  # at groups that might be better, before the grouping is taken as it is
_PRICE_STEPS = 1_000_000  # prices are counted as whole numbers, which add up the same in any order


def group(asks: Sequence[Ask], types: Sequence[NodeType], left: Sequence[int]) -> list[Group]:
    """Group runs into new nodes.

    Args:
        asks: What the runs ask for, in the order of the queue. A gang is held by one node.
        types: What may be asked for.
        left: How many more nodes of each type may be asked for.

    Returns:
        The nodes to ask for. A run that is in none of them cannot be held; if there are too few
        nodes for all, those that are behind in the queue are left out.
    """
    market = _Market(asks, types)
    if len(asks) <= FEW_RUNS:
        return market.best(tuple(left))
    firsts = [None, *range(len(types))] if len(asks) <= SOME_RUNS else [None]
    rough = [_Rough(market, list(left), order, at) for order in (False, True) for at in firsts]
    return min((each.groups() for each in rough), key=market.cost)


class _Market:
    """What types hold and cost; asked many times, so that answers are kept."""

    def __init__(self, asks: Sequence[Ask], types: Sequence[NodeType]) -> None:
        self.asks, self.types = asks, types
        self.prices = [round(each.price * _PRICE_STEPS) for each in types]
        self._room = [each.num_cards * each.memory_bytes for each in types]
        kinds = {ask: place for place, ask in enumerate(dict.fromkeys(asks))}
        self._kinds = list(kinds)
        self.kind_of = [kinds[ask] for ask in asks]
        self.by_price = sorted(
            range(len(types)),
            key=lambda at: (self.prices[at], self._room[at], at),
        )
        self.holders = cache(self._holders)

    def able(self, runs: Iterable[int]) -> tuple[int, ...]:
        """Types that hold these runs together, the cheapest first."""
        return self.holders(tuple(self.kind_of[run] for run in runs))

    def _holders(self, kinds: tuple[int, ...]) -> tuple[int, ...]:
        asks = [self._kinds[kind] for kind in kinds]
        least = sum(
            ask.num_workers * (ask.size or 0) for ask in asks
        )  # bytes, before a closer look
        return tuple(
            at
            for at in self.by_price
            if least <= self._room[at] or not self.types[at].num_cards
            if _holds(self.types[at], asks)
        )

    def cost(self, groups: Sequence[Group]) -> _Cost:
        """The smaller, the better: nobody left out before others, then the price."""
        num = len(self.asks)
        grouped = {run for _, runs in groups for run in runs}
        left_out = sum(1 << (num - 1 - run) for run in range(num) if run not in grouped)
        return left_out, sum(self.prices[at] for at, _ in groups), len(groups)

    def best(self, left: tuple[int, ...]) -> list[Group]:
        """The best of all groupings of a few runs."""
        num = len(self.asks)

        @cache
        def search(rest: tuple[int, ...], left: tuple[int, ...]) -> tuple[_Cost, tuple[Group, ...]]:
            if not rest:
                return (0, 0, 0), ()
            first, others = rest[0], rest[1:]
            (out, price, nodes), groups = search(others, left)
            best = (out + (1 << (num - 1 - first)), price, nodes), groups
            for mates in _subsets(others):
                runs = (first, *mates)
                for at in self.able(runs):
                    if not left[at]:
                        continue
                    fewer = (*left[:at], left[at] - 1, *left[at + 1 :])
                    behind = tuple(run for run in others if run not in mates)
                    (out, price, nodes), groups = search(behind, fewer)
                    cost = (out, price + self.prices[at], nodes + 1)
                    if cost < best[0]:
                        best = cost, ((at, runs), *groups)
            return best

        return list(search(tuple(range(num)), left)[1])


def _subsets(runs: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for mask in range(1 << len(runs)):
        yield tuple(run for place, run in enumerate(runs) if mask >> place & 1)


def _holds(kind: NodeType, asks: Iterable[Ask]) -> bool:
    node = empty(kind)
    return all(node.take(ask) for ask in asks)


@dataclass(slots=True)
class _Rough:
    """Groups that grow run by run."""

    market: _Market
    left: list[int]
    is_largest_first: bool
    first: int | None = None  # type that groups begin with where it holds the run
    made: list[Group] = field(default_factory=list)
    looks: int = MAX_LOOKS

    def groups(self) -> list[Group]:
        """Group all runs, then save what can be saved."""
        for run in self._order():
            self._join(run)
        self._shrink()
        self.looks = MAX_LOOKS
        while self._dissolve() or self._merge():
            pass
        return self.made

    def _order(self) -> list[int]:
        runs = range(len(self.market.asks))
        return sorted(runs, key=self._rank) if self.is_largest_first else list(runs)

    def _rank(self, run: int) -> tuple[int, float, int]:
        ask = self.market.asks[run]
        able = self.market.able((run,))
        price = self.market.prices[able[0]] if able else 0
        size = ask.num_workers * (ask.size or 0) if ask.device is DeviceKind.GPU else ask.cpus
        return -price, -size, run

    def _join(self, run: int) -> bool:
        """Put a run where it adds least to the price; a group of its own last."""
        options: list[tuple[int, int, int]] = []  # price that is added, group, type
        seen: set[tuple[int, tuple[int, ...]]] = set()  # equal groups are asked once
        for place, (at, runs) in enumerate(self.made):
            like = (at, tuple(self.market.kind_of[mate] for mate in runs))
            if like in seen:
                continue
            seen.add(like)
            to = self._cheapest(tuple(sorted((*runs, run))), (at,), at)
            if to is not None:
                options.append((self.market.prices[to] - self.market.prices[at], place, to))
        to = self._cheapest((run,), (), self.first)
        if to is not None:
            options.append((self.market.prices[to], len(self.made), to))
        if not options:
            return False
        _, place, to = min(options)
        if place == len(self.made):
            self.left[to] -= 1
            self.made.append((to, (run,)))
        else:
            at, runs = self.made[place]
            self._change(place, to, tuple(sorted((*runs, run))))
        return True

    def _cheapest(
        self, runs: tuple[int, ...], given_back: tuple[int, ...], kept: int | None = None
    ) -> int | None:
        """The cheapest type that holds the runs and is left, counting those that are given back.

        It is `first` where that is what the group has, or begins with, and it holds the runs.
        """
        self.looks -= 1
        able = [at for at in self.market.able(runs) if self.left[at] or at in given_back]
        if kept is not None and kept == self.first and kept in able:
            return kept
        return able[0] if able else None

    def _shrink(self) -> None:
        """Give every group the cheapest type that does."""
        self.first = None
        for place, (at, runs) in enumerate(self.made):
            to = self._cheapest(runs, (at,))
            if to is not None:
                self._change(place, to, runs)

    def _change(self, place: int, to: int, runs: tuple[int, ...]) -> None:
        self.left[self.made[place][0]] += 1
        self.left[to] -= 1
        self.made[place] = (to, runs)

    def _dissolve(self) -> bool:
        """Try to spread a group over the others; True where that saved something."""
        before = self.market.cost(self.made)
        for place in range(len(self.made)):
            if self.looks <= 0:
                return False
            at, runs = self.made[place]
            trial = _Rough(self.market, list(self.left), is_largest_first=False)
            trial.made = [*self.made[:place], *self.made[place + 1 :]]
            trial.left[at] += 1
            is_whole = all(trial._join(run) for run in runs)
            self.looks -= MAX_LOOKS - trial.looks
            if is_whole and self.market.cost(trial.made) < before:
                self.made, self.left = trial.made, trial.left
                return True
        return False

    def _merge(self) -> bool:
        """Try to make one group of two; True where that saved something."""
        for place, (at, runs) in enumerate(self.made):
            for other in range(place + 1, len(self.made)):
                if self.looks <= 0:
                    return False
                with_at, with_runs = self.made[other]
                every = tuple(sorted((*runs, *with_runs)))
                to = self._cheapest(every, (at, with_at))
                prices = self.market.prices
                if to is not None and prices[to] < prices[at] + prices[with_at]:
                    self._change(place, to, every)
                    self.left[with_at] += 1
                    del self.made[other]
                    return True
        return False
