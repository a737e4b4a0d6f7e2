"""A policy for short mean completion times: a card goes where it ends the most waiting per second.

The rule, for n runs on G cards. Let x_k be the seconds to a run's end with k cards, a restart
included where k is not what it has now.

1. A card-second has a price: if it were given back, each of the runs that wait behind could end
   1/G second earlier. Today that is n/G; when the run of rank r (from 0) ends, (n - 1 - r)/G.
   Runs rank by min over k of (1 + n/G k) x_k, the cheapest way to end at today's price.
2. To end a run is worth q = min over k of (1 + (n - 1 - r)/G k) x_k: its own waiting and the cards
   that it takes from those behind, at the price of when it ends. (The co-state of a run's work is
   constant while it trains, and fixed by the price at its end: Pontryagin's principle.)
3. With k cards a run earns q / x_k per second. Widths are chosen to earn the most together: on the
   concave envelope of each run's earnings, the steepest steps first, while cards are left.

4. What a run does next may scale otherwise than the rest of it (early epochs bear only small
   batches). A first filling by the rest tells what a card earns at the margin, p, and so what a
   run earns beyond what its cards cost, V = max over k of (earnings - p k). V cannot jump where
   the scaling does (Pontryagin again), so next work is worth min over k of (V + p k) x_k, by its
   own x_k.
5. Nobody ends later than the makespan: to the runs that seem to end last, `tail_weight` more are
   added in 2, divided by how near they come to the longest. Runs of one width are left out: it
   could only change their order. So are runs whose end is not foreseen, nor measured well enough
   by their own epochs: who seems to end last then is often one whose speed is not known yet, and
   cards would follow the mistake.

Of runs of one fixed width this is shortest remaining card-time first; of runs that scale alike it
gives short ones more, as heSRPT does (Berg et al., 2020), yet cards go to whoever uses them
well. Changes pay for themselves: a restart costs `restart_seconds` now, and again every
`horizon_seconds`, about the time after which the next change comes anyway; and what would be
repeated of an epoch under way is more work with any width but the one that the run has.

What is left of a run favours those who know it. Where it is not known, what a run has attained
stands for it: of runs that have lasted long most is still to come (least attained service). It
counts in coarse steps, or runs of like length would take turns and all end late.

Time: O(n log n) for the ranks, and for each run that is looked at its number of widths. Of waiting
runs with the same widths and speedups only the first G in rank are looked at.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from orchestrator.schedule.policy import Candidate
from orchestrator.types import RunId, Seconds, StopMode

__all__ = ["ShortestFlow"]

_LEAST_LEFT: Seconds = 1.0  # a forecast of nothing left is no reason to divide by it
_LEAST_SERVICE: Seconds = 3600.0  # of one card; below it a run counts as new
_SERVICE_STEP = 4.0
_TAIL = 0.1  # of the longest: who comes as near as that counts for about a third of it


class _Step(NamedTuple):
    """One step up the envelope of a run; sorted, the steepest comes first."""

    minus_slope: float
    run: int  # by index
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestFlow:
    """Widths that shorten the mean completion time; see the module for the rule.

    Classes of priority are served one after the other, the highest first, with what is left.
    `tail_weight` is how many runs more are counted to end with the last ones: it shortens the
    makespan and the longest completion times, for a little of the mean. Where a change costs an
    epoch, large weights do harm.
    """

    round_seconds: Seconds = 60.0
    restart_seconds: Seconds = 30.0
    horizon_seconds: Seconds = 600.0
    tail_weight: float = 1.0
    resize_mode: StopMode = StopMode.AFTER_EPOCH

    def widths(
        self, now: Seconds, candidates: Sequence[Candidate], num_gpus: int
    ) -> Mapping[RunId, int]:
        """Cards of each run in the next round; a run that is missing gets none.

        Args:
            now: The time; it changes nothing.
            candidates: In the order of submission, which decides between equals.
            num_gpus: Cards for all of them together.
        """
        del now
        chosen: dict[RunId, int] = {}
        for priority in sorted({each.priority for each in candidates}, reverse=True):
            group = [each for each in candidates if each.priority == priority]
            free = num_gpus - sum(chosen.values())
            if free > 0:
                earnings = self._earnings(group, free)
                if any(each.speedups_now is not None for each in group):
                    price = _marginal(_steps(group, earnings), free)
                    earnings |= {
                        index: self._earnings_now(group[index], earned, price)
                        for index, earned in earnings.items()
                        if group[index].speedups_now is not None
                    }
                chosen |= _fill(group, earnings, free)
        return chosen

    def seconds_left(
        self, candidate: Candidate, speedups: Sequence[float] | None = None
    ) -> list[Seconds]:
        """To the end with each of the run's widths, restarts included where a width is new.

        Args:
            candidate: The run.
            speedups: In place of its own.
        """
        left = candidate.left_seconds
        if left is None:
            left = _likely_left(candidate.attained_seconds)
        left = max(left, _LEAST_LEFT)
        share = self.restart_seconds / self.horizon_seconds
        told = []
        for width, speedup in zip(candidate.widths, speedups or candidate.speedups, strict=True):
            seconds = left / speedup
            if width != candidate.width:
                seconds += candidate.again_seconds / speedup
                seconds += max(self.restart_seconds, seconds * share)
            told.append(seconds)
        return told

    def _earnings(self, group: Sequence[Candidate], num_gpus: int) -> dict[int, list[float]]:
        """What each run earns with each of its widths, by its index; not of hopeless ones."""
        price = len(group) / num_gpus
        keys = [_least_cost(each.widths, self.seconds_left(each), price) for each in group]
        weights = self._weights(group, keys)
        behind = sum(weights)
        seen: Counter[tuple[tuple[int, ...], tuple[float, ...]]] = Counter()
        earnings: dict[int, list[float]] = {}
        for index in sorted(range(len(group)), key=keys.__getitem__):
            candidate, own = group[index], weights[index]
            behind = max(behind - own, 0.0)
            if not candidate.width:
                shape = (candidate.widths, candidate.speedups)
                seen[shape] += 1
                if seen[shape] > num_gpus:
                    continue  # those before it would take every card
            seconds = self.seconds_left(candidate)
            worth = own * _least_cost(candidate.widths, seconds, behind / num_gpus / own)
            earnings[index] = [worth / each for each in seconds]
        return earnings

    def _weights(self, group: Sequence[Candidate], keys: Sequence[Seconds]) -> list[float]:
        """For how many runs each of them counts; the longest ones for more than one."""
        longest = max(keys)
        near = [math.exp((key / longest - 1.0) / _TAIL) for key in keys]
        part = self.tail_weight / sum(near)
        return [
            1.0 + part * each * (candidate.is_foreseen and len(candidate.widths) > 1)
            for each, candidate in zip(near, group, strict=True)
        ]

    def _earnings_now(
        self, candidate: Candidate, earned: Sequence[float], price: float
    ) -> list[float]:
        """By what it does next, at the price of a card now."""
        by_width = list(zip(candidate.widths, earned, strict=True))
        gain = max(0.0, *(each - price * width for width, each in by_width))
        price = min(price, max(each / width for width, each in by_width))  # else it would not run
        seconds = self.seconds_left(candidate, candidate.speedups_now)
        told = zip(candidate.widths, seconds, strict=True)
        worth = min((gain + price * width) * each for width, each in told)
        return [worth / each for each in seconds]


def _fill(
    group: Sequence[Candidate], earnings: Mapping[int, list[float]], num_gpus: int
) -> dict[RunId, int]:
    """Climb the envelopes, steepest first; a step that is too wide is climbed as far as it goes."""
    widths: dict[int, int] = {}
    left = num_gpus
    for step in _steps(group, earnings):
        if widths.get(step.run, 0) != step.start:
            continue
        end = step.end
        if end - step.start > left:
            end = _best_up_to(step, left, group[step.run].widths, earnings[step.run])
        left -= end - step.start
        if end:
            widths[step.run] = end
        if not left:
            break
    return {group[index].run_id: width for index, width in widths.items()}


def _steps(group: Sequence[Candidate], earnings: Mapping[int, list[float]]) -> list[_Step]:
    return sorted(
        step
        for index, earned in earnings.items()
        for step in _envelope(index, group[index].widths, earned)
    )


def _marginal(steps: Iterable[_Step], num_gpus: int) -> float:
    """What the last card earns; nothing where not all are wanted."""
    left = num_gpus
    for step in steps:
        left -= step.end - step.start
        if left <= 0:
            return -step.minus_slope
    return 0.0


def _best_up_to(step: _Step, left: int, widths: Sequence[int], earned: Sequence[float]) -> int:
    """The width that earns most with the cards that are left; at least what the run has."""
    told = zip(widths, earned, strict=True)
    fits = [(value, -width) for width, value in told if step.start <= width <= step.start + left]
    return -max(fits)[1] if fits else step.start


def _likely_left(attained: float) -> Seconds:
    """As much as it has had, in steps."""
    steps = math.floor(math.log(max(attained / _LEAST_SERVICE, 1.0), _SERVICE_STEP))
    return _LEAST_SERVICE * _SERVICE_STEP**steps


def _least_cost(widths: Sequence[int], seconds: Sequence[Seconds], price: float) -> float:
    return min((1.0 + price * k) * x for k, x in zip(widths, seconds, strict=True))


def _envelope(index: int, widths: Sequence[int], earned: Sequence[float]) -> list[_Step]:
    """Steps of the upper concave envelope from (0, 0), as far as it rises."""
    corners: list[tuple[int, float]] = [(0, 0.0)]
    for width, value in zip(widths, earned, strict=True):
        if value <= corners[-1][1]:
            continue
        while len(corners) > 1 and _is_below(corners[-2], corners[-1], (width, value)):
            corners.pop()
        corners.append((width, value))
    return [
        _Step((value - after) / (end - start), index, start, end)
        for (start, value), (end, after) in pairwise(corners)
    ]


def _is_below(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
