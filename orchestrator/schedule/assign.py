"""Which run goes to which card, and who shares a card with whom, for the greatest total worth.

The worth of a run is its speed where it is placed over its speed alone on the reference card:
three runs at full speed on reference cards are worth 3, whatever they train. The other objective
is the plain sum of steps a second, in which runs with short steps count most.

The rules, in this order:

1. A run of a lower rank goes before all of higher ranks: what it is given is not taken away for
   them. They may join it on its card where the two together are worth more than it is alone.
2. Among runs of one rank the total worth decides, also over who waits when there are more runs
   than places.
3. Among equal runs the order of the queue decides; of equal worth the card that comes first.

Runs share a card only if the speed of each beside each other is known or assumed, if they fit in
its free memory, and if they are worth more so than otherwise.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations_with_replacement
from typing import TypeAlias

from orchestrator.schedule.packing import NEVER, Worth, pack
from orchestrator.selectors import Selector
from orchestrator.types import Bytes, RunId

__all__ = [
    "Assignment", "Kind", "Objective", "Seeker", "Signature", "Speeds", "Spot", "assign",
    "in_queue_order",
]  # fmt: skip

Signature: TypeAlias = str  # runs with equal signatures are equally fast
Kind: TypeAlias = str  # cards of one kind are equally fast

MAX_SIZES = 64  # with more, cards that differ in free bytes are never taken as equal


class Objective(StrEnum):
    """What is summed over the runs that are placed."""

    WORTH = "worth"  # speed over the speed alone on the reference card
    STEPS = "steps"  # steps a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """A run of one card that waits; those that differ in `run_id` and `rank` only are equal."""

    run_id: RunId
    signature: Signature
    memory_bytes: Bytes | None = 0  # None takes a whole card and shares it with nobody
    kinds: tuple[Kind, ...] = ()  # that are allowed; empty allows all
    rank: int = 0  # the lower goes first
    labels: Selector = ()  # that its node must have


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A card with room. `beside` has the signatures of the runs that are there already."""

    name: str
    kind: Kind
    free_bytes: Bytes = 0
    beside: tuple[Signature, ...] = ()
    is_whole: bool = True  # nobody is there, other people's processes included
    refuses: frozenset[Selector] = frozenset()  # labels that its node does not have


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Steps a second, measured or assumed; what is absent or not above 0 never runs so.

    `beside` has the speed of the first signature while the second runs on the same card. Of three
    and more on a card each keeps the product of the shares that each of the others leaves it. Where
    the speed on the reference card is not known, the highest that is known takes its place.
    """

    alone: Mapping[tuple[Signature, Kind], float]
    beside: Mapping[tuple[Signature, Signature, Kind], float] = field(default_factory=dict)
    reference: Kind = ""

    def scales(self, objective: Objective) -> dict[Signature, float]:
        """What one step a second of each signature counts for."""
        best: dict[Signature, float] = {}
        for (signature, _), speed in self.alone.items():
            best[signature] = max(speed, best.get(signature, 0.0))
        if objective is Objective.STEPS:
            return dict.fromkeys(best, 1.0)
        there = {s: self.alone.get((s, self.reference), 0.0) for s in best}
        units = {s: there[s] if there[s] > 0 else speed for s, speed in best.items()}
        return {signature: 1 / unit for signature, unit in units.items() if unit > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who goes where. `gain` is what is added to the sum, losses of neighbours deducted."""

    places: Mapping[RunId, str]  # name of the spot
    waiting: tuple[RunId, ...]  # in the order of the queue
    gain: float


def in_queue_order(seekers: Sequence[Seeker], num_spots: int) -> tuple[Seeker, ...]:
    """The same runs with ranks by which hardly anybody is passed for the sake of the total worth.

    Of each rank, the first so many as there are spots form a rank of their own: each has a place
    if it fits anywhere alone, and worth decides which. The next so many follow, and may join them.
    """
    step = max(1, num_spots)
    count: dict[int, int] = defaultdict(int)
    keys = []
    for seeker in seekers:
        keys.append((seeker.rank, count[seeker.rank] // step))
        count[seeker.rank] += 1
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return tuple(
        replace(seeker, rank=ranks[key]) for seeker, key in zip(seekers, keys, strict=True)
    )


def assign(
    seekers: Sequence[Seeker],
    spots: Sequence[Spot],
    speeds: Speeds,
    *,
    objective: Objective = Objective.WORTH,
    most: int = 2,
) -> Assignment:
    """Place runs on cards by the rules above.

    Args:
        seekers: In the order of the queue.
        spots: Each card at most once; of equal worth the first is taken, so the least wanted
            cards come first. A card with runs whose speed is not known is no spot.
        speeds: Of the signatures on the kinds of cards.
        objective: What is summed.
        most: Runs on one card, those that are there included.
    """
    sums = _Sums(speeds, speeds.scales(objective), most)
    ranks: dict[int, list[Seeker]] = defaultdict(list)
    for seeker in seekers:
        ranks[seeker.rank].append(seeker)
    places: dict[RunId, str] = {}
    gain = 0.0
    left = list(spots)
    for rank in sorted(ranks):
        has_come = True
        while has_come:  # two at a time come to a card
            rest = [seeker for seeker in ranks[rank] if seeker.run_id not in places]
            chosen, gained = _place(rest, left, sums)
            gain += gained
            places |= {seeker.run_id: name for name, there in chosen.items() for seeker in there}
            left = [more for spot in left for more in _after(spot, chosen.get(spot.name, ()), most)]
            has_come = most > 2 and bool(chosen)
    waiting = tuple(seeker.run_id for seeker in seekers if seeker.run_id not in places)
    return Assignment(places=places, waiting=waiting, gain=gain)


def _after(spot: Spot, came: Sequence[Seeker], most: int) -> tuple[Spot, ...]:
    """What is left of a spot for those who come later."""
    if not came:
        return (spot,)
    there = (*spot.beside, *(seeker.signature for seeker in came))
    if len(there) >= most or any(seeker.memory_bytes is None for seeker in came):
        return ()
    free = spot.free_bytes - sum(seeker.memory_bytes or 0 for seeker in came)
    return (replace(spot, free_bytes=free, beside=there, is_whole=False),)


@dataclass(frozen=True, slots=True)
class _Sums:
    """What runs on a card add up to, or NEVER where they cannot run there."""

    speeds: Speeds
    scales: Mapping[Signature, float]
    most: int

    def total(self, there: tuple[Signature, ...], kind: Kind) -> float:
        alone = [self.speeds.alone.get((name, kind), 0.0) for name in there]
        if not all(speed > 0 for speed in alone):
            return NEVER
        total = 0.0
        for at, name in enumerate(there):
            speed = alone[at]
            for other in there[:at] + there[at + 1 :]:
                beside = self.speeds.beside.get((name, other, kind), 0.0)
                if beside <= 0:
                    return NEVER
                speed *= beside / alone[at]
            total += speed * self.scales[name]
        return total


def _place(
    seekers: Sequence[Seeker], spots: Sequence[Spot], sums: _Sums
) -> tuple[dict[str, list[Seeker]], float]:
    """Who of one rank comes to which spot, and what is gained so."""
    classes: dict[Seeker, list[Seeker]] = {}
    for seeker in seekers:
        classes.setdefault(replace(seeker, run_id=RunId("")), []).append(seeker)
    rounded = _rounding(classes)
    groups: dict[Spot, list[str]] = {}
    for spot in spots:
        alike = replace(spot, name="", free_bytes=rounded(spot.free_bytes))
        groups.setdefault(alike, []).append(spot.name)
    worth = _worth(tuple(classes), tuple(groups), sums)
    filled = pack(
        [len(alike) for alike in classes.values()],
        [len(names) for names in groups.values()],
        worth,
    )
    queues = [iter(alike) for alike in classes.values()]
    names = [iter(alike) for alike in groups.values()]
    chosen: dict[str, list[Seeker]] = {}
    gain = 0.0
    for (group, there), num in sorted(filled.items()):
        gain += num * worth(group, there)
        for _ in range(num if there else 0):
            chosen[next(names[group])] = [next(queues[run]) for run in there]
    return chosen, gain


def _rounding(seekers: Iterable[Seeker]) -> Callable[[Bytes], Bytes]:
    """Free bytes down to what the sizes at hand can use of them: so more cards are equal."""
    sizes = sorted({s.memory_bytes for s in seekers if s.memory_bytes is not None})
    if len(sizes) > MAX_SIZES:
        return lambda free_bytes: free_bytes
    pairs = combinations_with_replacement(sizes, 2)
    steps = sorted({*sizes, *(first + second for first, second in pairs)})

    def rounded(free_bytes: Bytes) -> Bytes:
        at = bisect_right(steps, free_bytes)
        return steps[at - 1] if at else -1

    return rounded


def _worth(classes: Sequence[Seeker], groups: Sequence[Spot], sums: _Sums) -> Worth:
    """What a spot of a group is worth more with runs of these classes on it than it is now."""
    before = [sums.total(spot.beside, spot.kind) for spot in groups]

    def worth(group: int, there: tuple[int, ...]) -> float:
        spot, runs = groups[group], [classes[run] for run in there]
        if not runs:
            return 0.0
        if before[group] == NEVER or not _fit(runs, spot, sums.most):
            return NEVER
        names = (*spot.beside, *(run.signature for run in runs))
        return sums.total(names, spot.kind) - before[group]

    return worth


def _fit(runs: Sequence[Seeker], spot: Spot, most: int) -> bool:
    """True when these runs may be on the card together, and with those that are there."""
    num_there = len(runs) + len(spot.beside)
    if num_there > most or any(run.kinds and spot.kind not in run.kinds for run in runs):
        return False
    if spot.refuses and any(run.labels in spot.refuses for run in runs):
        return False
    if any(run.memory_bytes is None for run in runs):
        return num_there == 1 and spot.is_whole
    return sum(run.memory_bytes or 0 for run in runs) <= spot.free_bytes
