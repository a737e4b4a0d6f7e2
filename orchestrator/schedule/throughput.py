"""What is known of how fast runs train: on each kind of card, alone and beside one another.

A fold over completed epochs: equal samples in equal order lead to equal answers. Runs with equal
signatures share what was learned, so the second fold and the hundredth trial are placed by what
the first has measured. The speed of a run alone on a card of a kind comes from, in this order:

1. its epochs alone on that kind;
2. its epochs there beside another, taken to be slowed as pairs usually are;
3. its epochs on the kind on which most were measured, by the worth of both cards;
4. its first epoch of an attempt or its first steps, which a warm-up slows, there or elsewhere;
5. the worth of the card alone: right for what is faster where, in no unit.

Beside another run it is the measured share of the speed alone, else the share that was measured on
another kind, else the mean of `ASSUMED_SHARE`, of what others have left to it on the kind, and of
what the other has left to others. An assumption that proves wrong is measured at the next epoch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import TypeAlias

from orchestrator.schedule.assign import Kind, Signature, Speeds
from orchestrator.types import RunSpec

__all__ = ["Estimate", "Pair", "Sample", "Source", "Throughput", "Verdict", "signature"]

# Half of the median sum over the 976 pairs of trainings that Gavel's authors measured on K80, P100
# and V100 (github.com/stanford-futuredata/gavel): 1.14.
ASSUMED_SHARE = 0.57
ASSUMED_NOISE = 0.05  # relative, of one epoch, until epochs of the kind have shown theirs
SIGNIFICANT = 2.0  # standard errors below 1 at which a pair is parted: about 2 % wrong partings
MOST_SAMPLES = 32  # then the weight of what was measured so far is halved


class Source(StrEnum):
    """Where a speed comes from, the most trusted first."""

    EPOCHS = "epochs"
    COMPANY = "epochs beside others"
    OTHER_KIND = "epochs on another kind of card"
    FIRST_EPOCH = "first epoch or steps"
    WORTH = "worth of the card"
    ASSUMED = "assumption"


class Verdict(StrEnum):
    """What measurements say about two runs on one card."""

    UNKNOWN = "unknown"
    TOGETHER = "together"
    PARTED = "parted"  # they would be faster one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The speed over one epoch, in which the company did not change."""

    signature: Signature
    kind: Kind
    images_per_second: float
    beside: tuple[Signature, ...] = ()
    is_first: bool = False  # of its attempt, or of steps only


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its relative standard error, which is infinite for what is inferred."""

    value: float
    noise: float
    source: Source


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs on one card: the sum of their speeds, each as a share of its speed alone."""

    total: float
    noise: float  # standard error of the total
    verdict: Verdict


def signature(spec: RunSpec, micro_batch: int) -> Signature:
    """What makes runs equally fast on equal cards, wherever their data comes from."""
    settings = spec.settings
    return f"{spec.trainer} {settings.model} {settings.imgsz} {micro_batch} {settings.amp}"


@dataclass(slots=True)
class _Mean:
    """Mean and scatter of measurements, by Welford's method."""

    num: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean

    def add(self, value: float) -> None:
        if self.num == MOST_SAMPLES:
            self.num, self.squares = self.num // 2, self.squares / 2
        self.num += 1
        before = value - self.mean
        self.mean += before / self.num
        self.squares += before * (value - self.mean)

    @property
    def noise(self) -> float:
        """Relative standard error; what is assumed counts as one measurement."""
        variance = ASSUMED_NOISE**2 + self.squares / self.mean / self.mean
        return math.sqrt(variance) / self.num


_ByKind: TypeAlias = dict[Kind, _Mean]
_Shares: TypeAlias = tuple[float, ...]


class Throughput:
    """All that is known; changed by `rate` and `learn` only."""

    def __init__(self) -> None:
        self._worths: dict[Kind, float] = {}
        self._alone: dict[Signature, _ByKind] = {}
        self._first: dict[Signature, _ByKind] = {}
        self._beside: dict[Signature, dict[Signature, _ByKind]] = {}
        self._burdened: dict[Signature, dict[Signature, None]] = {}  # who was beside it
        self._usual: dict[tuple[Signature, Kind], tuple[_Shares, _Shares]] = {}  # cache

    def rate(self, kind: Kind, worth: float) -> None:
        """How fast cards of a kind train, as a multiple of some card."""
        assert worth > 0, f"{kind} is worth {worth}"
        self._worths[kind] = worth

    def learn(self, sample: Sample) -> None:
        """Take in one epoch; one beside several runs tells of no pair."""
        if sample.images_per_second <= 0 or len(sample.beside) > 1:
            return
        if not sample.beside:
            table = self._first if sample.is_first else self._alone
            by_kind = table.setdefault(sample.signature, {})
        elif sample.is_first:
            return
        else:
            (other,) = sample.beside
            by_kind = self._beside.setdefault(sample.signature, {}).setdefault(other, {})
            self._burdened.setdefault(other, {})[sample.signature] = None
        by_kind.setdefault(sample.kind, _Mean()).add(sample.images_per_second)
        self._usual.clear()

    def alone(self, signature: Signature, kind: Kind) -> Estimate:
        """Images a second on a card of its own; with `Source.WORTH` only comparable with itself."""
        epochs, company = self._alone.get(signature, {}), self._in_company(signature)
        if kind in epochs:
            return Estimate(epochs[kind].mean, epochs[kind].noise, Source.EPOCHS)
        if kind in company:
            return Estimate(company[kind].mean, math.inf, Source.COMPANY)
        first = self._first.get(signature, {})
        for known, source in (
            (epochs, Source.OTHER_KIND),
            (company, Source.COMPANY),
            (first, Source.FIRST_EPOCH),
        ):
            if known:
                there = kind if kind in known else max(sorted(known), key=lambda k: known[k].num)
                ratio = self._worth(kind) / self._worth(there)
                return Estimate(known[there].mean * ratio, math.inf, source)
        return Estimate(self._worth(kind), math.inf, Source.WORTH)

    def share(self, signature: Signature, other: Signature, kind: Kind) -> Estimate:
        """What is left of the speed alone beside another run, as a share of it."""
        elsewhere = sorted(self._beside.get(signature, {}).get(other, {}).keys() - {kind})
        for there in (kind, *elsewhere):
            known = self._share(signature, other, there)
            if known is not None:
                source = Source.EPOCHS if there == kind else Source.OTHER_KIND
                return Estimate(*known, source)
        return Estimate(self._assumed(signature, other, kind), math.inf, Source.ASSUMED)

    def pair(self, first: Signature, second: Signature, kind: Kind) -> Pair:
        """Whether two runs should share a card of a kind; UNKNOWN until all four are measured."""
        mine, theirs = self.share(first, second, kind), self.share(second, first, kind)
        total = mine.value + theirs.value
        if not mine.source == theirs.source == Source.EPOCHS:
            return Pair(total, math.inf, Verdict.UNKNOWN)
        noise = math.hypot(mine.value * mine.noise, theirs.value * theirs.noise)
        is_below = total + SIGNIFICANT * noise < 1.0
        return Pair(total, noise, Verdict.PARTED if is_below else Verdict.TOGETHER)

    def speeds(
        self, signatures: Iterable[Signature], kinds: Iterable[Kind], reference: Kind
    ) -> Speeds:
        """All that the placement asks for; parted pairs have no speed together."""
        names, kinds = sorted(set(signatures)), sorted(set(kinds))
        alone = {(s, k): self.alone(s, k).value for s in names for k in {*kinds, reference}}
        beside = {
            (one, other, kind): alone[one, kind] * self.share(one, other, kind).value
            for one, other, kind in product(names, names, kinds)
            if self.pair(one, other, kind).verdict is not Verdict.PARTED
        }
        return Speeds(alone=alone, beside=beside, reference=reference)

    def _share(
        self, signature: Signature, other: Signature, kind: Kind
    ) -> tuple[float, float] | None:
        """Share and its relative standard error, where both speeds were measured."""
        beside = self._beside.get(signature, {}).get(other, {}).get(kind)
        alone = self._alone.get(signature, {}).get(kind)
        if beside is None or alone is None:
            return None
        return beside.mean / alone.mean, math.hypot(beside.noise, alone.noise)

    def _in_company(self, signature: Signature) -> _ByKind:
        """What the speed alone would be if all pairs left `ASSUMED_SHARE` of it."""
        found: _ByKind = {}
        for by_kind in self._beside.get(signature, {}).values():
            for kind, beside in by_kind.items():
                mean = found.setdefault(kind, _Mean())
                mean.add(beside.mean / ASSUMED_SHARE)
        return found

    def _assumed(self, signature: Signature, other: Signature, kind: Kind) -> float:
        shares = (ASSUMED_SHARE, *self._shares(signature, kind)[0], *self._shares(other, kind)[1])
        return sum(shares) / len(shares)

    def _shares(self, signature: Signature, kind: Kind) -> tuple[_Shares, _Shares]:
        """Shares that others have left to it on a kind of card, and that it has left to others."""
        found = self._usual.get((signature, kind))
        if found is None:
            kept = (
                self._share(signature, other, kind) for other in self._beside.get(signature, ())
            )
            left = (self._share(one, signature, kind) for one in self._burdened.get(signature, ()))
            found = (
                tuple(min(share[0], 1.0) for share in kept if share is not None),
                tuple(min(share[0], 1.0) for share in left if share is not None),
            )
            self._usual[signature, kind] = found
        return found

    def _worth(self, kind: Kind) -> float:
        return self._worths.get(kind, 1.0)
