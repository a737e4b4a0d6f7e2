"""When a run will end: from its measured epochs, what is left of them, and its patience.

The latest end is that of the last epoch; the earliest is that of the epoch in which patience
runs out if nothing improves any more. The estimate lies between them: a training that has
improved in every recent epoch is expected to go on, one that has not improved for a while to stop
(the share of the patience that is used up is taken for the chance of it; a rule of thumb, which is
why forecasts are scored). A run that has no epochs yet is forecast by those of runs like it.

The seconds of an epoch are a mean that halves the weight of the past every three epochs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

from orchestrator.schedule.runs import RunRecord
from orchestrator.types import Progress, RunId, RunSpec, RunState, Seconds

__all__ = ["Forecast", "Forecasts", "Score", "Signature", "signature"]

SCATTER = 0.15  # of the seconds of an epoch, assumed until runs of the kind have shown theirs
START_SECONDS: Seconds = 30.0  # from the order to start until the first step; measured: 5 to 20 s
MEMORY = 0.5 ** (1 / 3)  # weight of the past from one epoch to the next
SCORED_AT = (0.25, 0.5, 0.75)  # of the epochs: where a forecast is kept to be scored

Signature: TypeAlias = tuple[str, str, str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Seconds from now to the end of a run: at the earliest, as expected, at the latest."""

    least: Seconds
    expected: Seconds
    most: Seconds

    def __post_init__(self) -> None:
        assert 0.0 <= self.least <= self.expected <= self.most, self


@dataclass(slots=True)
class Score:
    """How good forecasts were, over all runs that have succeeded."""

    num: int = 0
    num_inside: int = 0  # the end lay in the range that was told
    sum_errors: float = 0.0  # |expected - true| / true, of the time that was left

    @property
    def mean_error(self) -> float | None:
        """Mean relative error of the time that was left; None without a forecast."""
        return self.sum_errors / self.num if self.num else None


def signature(spec: RunSpec) -> Signature:
    """Runs with equal signatures take about equally long for an epoch on one card."""
    settings = spec.settings
    return (spec.trainer, settings.model, settings.data, settings.imgsz, spec.effective_batch)


@dataclass(slots=True)
class _Pace:
    """Card-worth-seconds of an epoch: what it takes on a card of worth 1, gang by gang."""

    mean: Seconds = 0.0
    deviation: float = SCATTER  # mean relative one
    num: int = 0

    def add(self, work: Seconds) -> None:
        """Take in one epoch."""
        if self.num:
            self.deviation += (abs(work / self.mean - 1.0) - self.deviation) * (1.0 - MEMORY)
            self.mean = self.mean * MEMORY + work * (1.0 - MEMORY)
        else:
            self.mean = work
        self.num += 1


@dataclass(slots=True)
class Forecasts:
    """What is known of how long epochs take; a fold over progress."""

    score: Score = field(default_factory=Score)
    _paces: dict[Signature, _Pace] = field(default_factory=dict)
    _pace_of: dict[RunId, _Pace] = field(default_factory=dict)  # of runs that have epochs
    _kept: dict[str, list[tuple[Seconds, Forecast]]] = field(default_factory=dict)

    def progressed(self, record: RunRecord, progress: Progress, now: Seconds) -> None:
        """An epoch of a run is complete."""
        if progress.seconds <= 0:
            return
        worth = record.charge[0] or 1.0
        record.pace = _blend(record.pace, progress.seconds)
        pace = self._pace_of.get(record.spec.run_id)
        if pace is None:
            pace = self._paces.setdefault(signature(record.spec), _Pace())
            self._pace_of[record.spec.run_id] = pace
        pace.add(progress.seconds * worth)
        if progress.epoch in _scored_epochs(progress.epochs):
            told = self.left(record)
            if told is not None:
                self._kept.setdefault(record.spec.run_id, []).append((now, told))

    def ended(self, record: RunRecord, now: Seconds) -> None:
        """A run has ended; what was told of it before is scored if it has succeeded."""
        self._pace_of.pop(record.spec.run_id, None)
        for at, told in self._kept.pop(record.spec.run_id, ()):
            true = now - at
            if record.state is RunState.SUCCEEDED and true > 0:
                self.score.num += 1
                self.score.num_inside += told.least - 1.0 <= true <= told.most + 1.0
                self.score.sum_errors += abs(told.expected - true) / true

    def set_back(self, seconds: Seconds) -> None:
        """The clock was set back by so much."""
        for kept in self._kept.values():
            kept[:] = [(at - seconds, told) for at, told in kept]

    def left(self, record: RunRecord, *, worth: float | None = None) -> Forecast | None:
        """Time that a run still needs once it runs; None while nothing is known.

        Args:
            record: The run, waiting or running.
            worth: Of the cards that it would get; by default those that it has, or worth 1.
        """
        pace = self._paces.get(signature(record.spec))
        seconds = record.pace
        if seconds is None or not record.state.holds_gpus:
            if pace is None:
                return None
            seconds = pace.mean / (worth or record.charge[0] or 1.0)
        scatter = pace.deviation if pace is not None else SCATTER
        least, expected, most = _epochs_left(record)
        start = 0.0 if record.state.holds_gpus else START_SECONDS
        return Forecast(
            least=least * seconds * max(1.0 - 2.0 * scatter, 0.0),
            expected=start + expected * seconds,
            most=start + most * seconds * (1.0 + 2.0 * scatter),
        )

    def ends_at(self, records: Iterable[RunRecord], now: Seconds) -> Seconds | None:
        """When all of these gangs will have ended, as expected; None when one is not known."""
        latest = now
        for record in records:
            left = self.left(record)
            if left is None:
                return None
            latest = max(latest, now + left.expected)
        return latest


@cache
def _scored_epochs(epochs: int) -> frozenset[int]:
    return frozenset(int(epochs * part) for part in SCORED_AT) - {0}


def _blend(mean: Seconds | None, seconds: Seconds) -> Seconds:
    return seconds if mean is None else mean * MEMORY + seconds * (1.0 - MEMORY)


def _epochs_left(record: RunRecord) -> tuple[float, float, float]:
    """Epochs that are left: at the least, as expected, at the most."""
    settings = record.spec.settings
    most = max(settings.epochs - record.epoch, 0)
    if settings.patience <= 0 or not record.best_epoch:
        return most, most, most
    idle = record.epoch - record.best_epoch
    least = min(max(settings.patience - idle, 0), most)
    chance = min(idle / settings.patience, 1.0)  # that nothing improves any more
    return least, least * chance + most * (1.0 - chance), most
