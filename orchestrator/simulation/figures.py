"""What a simulated policy came to: times, fairness, energy, restarts, as numbers.

Finish-time fairness (Mahajan et al., "Themis", NSDI 2020) is the completion time of a job over the
one it would have alone on an equal share of the cluster: of `num_gpus / n` cards, where `n` is the
mean number of unfinished jobs during its life. A job that asks for no more than its share takes
its own duration there; one that asks for more takes as many times longer. Above 1 it would have
been better off alone.

The fairness between queues is Jain's index ((sum x)^2 / (n sum x^2); Jain et al., DEC-TR-301,
1984) of the queues' mean progress `x` relative to an equal share, the inverse of the above: 1 when
all queues fare alike, 1/n when one gets everything.

Energy is that of the cards: the board's limit (the catalogue) while a card is held, and
`IDLE_SHARE` of it otherwise. A training seldom draws the limit, so it is an upper bound.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError
from orchestrator.schedule.forecast import Score
from orchestrator.simulation.clusters import Site
from orchestrator.simulation.tally import Tally
from orchestrator.types import RunId, RunState, RunStatus, Seconds

__all__ = ["IDLE_SHARE", "Alone", "Figures", "figures", "jain", "plain", "quantile"]

IDLE_SHARE = 0.13  # of the limit; assumed: idle cards of 300 to 400 W are seen to draw 40 to 55 W
HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A run when nobody else is there: its time on the cards that it asks for; its queue."""

    seconds: Seconds
    num_gpus: int
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One policy's outcome. Times in seconds; tuples are sorted, of all runs that have ended."""

    policy: str
    states: Mapping[str, int]
    completion_s: tuple[Seconds, ...]  # from submission to the end
    waiting_s: tuple[Seconds, ...]  # from submission to the first start
    fairness: tuple[float, ...]  # finish-time fairness of those that have succeeded
    makespan_s: Seconds  # from the first submission to the last end
    utilisation: float  # busy card-seconds over all card-seconds of the makespan
    jain: float
    energy_kwh: float | None  # None where the catalogue does not know a card
    restarts: int  # attempts beyond the first of each run
    failures: Mapping[str, int]
    forecast_error: float | None  # mean relative error of the time that was left
    forecast_inside: float | None  # part of the forecasts whose range held the end
    num_gpus: int
    busy: tuple[tuple[Seconds, int], ...]  # cards that are held from each moment on


def figures(
    policy: str, site: Site, tally: Tally, alone: Mapping[RunId, Alone], score: Score
) -> Figures:
    """Sum up a simulation that has come to its end.

    Args:
        policy: Its name.
        site: The cluster.
        tally: What was counted.
        alone: Of each run.
        score: Of the forecasts.
    """
    ended = [status for status in tally.statuses.values() if status.ended_at is not None]
    begin = min((status.submitted_at for status in ended), default=0.0)
    makespan = max((status.ended_at or 0.0 for status in ended), default=0.0) - begin
    ratios = _fairness(ended, alone, site.num_gpus)
    progress: dict[str, list[float]] = {}
    for run_id, ratio in ratios.items():
        progress.setdefault(alone[run_id].queue, []).append(1.0 / ratio)
    busy = sum(tally.busy_seconds.values())
    return Figures(
        policy=policy,
        states=dict(sorted(Counter(s.state.value for s in tally.statuses.values()).items())),
        completion_s=tuple(sorted((s.ended_at or 0.0) - s.submitted_at for s in ended)),
        waiting_s=tuple(
            sorted((s.started_at or s.ended_at or 0.0) - s.submitted_at for s in ended)
        ),
        fairness=tuple(sorted(ratios.values())),
        makespan_s=makespan,
        utilisation=busy / max(site.num_gpus * makespan, 1.0),
        jain=jain([sum(each) / len(each) for each in progress.values()]),
        energy_kwh=_energy_kwh(site, tally.busy_seconds, makespan),
        restarts=sum(max(status.attempt - 1, 0) for status in ended),
        failures=dict(sorted(tally.failures.items())),
        forecast_error=score.mean_error,
        forecast_inside=score.num_inside / score.num if score.num else None,
        num_gpus=site.num_gpus,
        busy=tuple((at - begin, num) for at, num in tally.series),
    )


def plain(found: Figures) -> dict[str, Any]:
    """The figures as plain values, times in hours, rounded to what a comparison can bear."""
    return {
        "policy": found.policy,
        "states": dict(found.states),
        "completion_hours": _spread(found.completion_s),
        "waiting_hours": _spread(found.waiting_s),
        "makespan_hours": round(found.makespan_s / HOUR, 3),
        "utilisation": round(found.utilisation, 4),
        "finish_time_fairness": {
            "mean": round(_mean(found.fairness), 3),
            "p99": round(quantile(found.fairness, 0.99), 3),
            "worst": round(max(found.fairness, default=0.0), 3),
            "unfair_part": round(_mean([ratio > 1.05 for ratio in found.fairness]), 4),
        },
        "jain_queues": round(found.jain, 4),
        "energy_kwh": None if found.energy_kwh is None else round(found.energy_kwh, 1),
        "restarts": found.restarts,
        "failures": dict(found.failures),
        "forecast_error": _rounded(found.forecast_error),
        "forecast_inside": _rounded(found.forecast_inside),
    }


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that this part of the values does not exceed; 0 where there are none."""
    return ordered[max(math.ceil(len(ordered) * part), 1) - 1] if ordered else 0.0


def jain(values: Sequence[float]) -> float:
    """Jain's index; 1 where there is nothing to compare."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def _waiting(status: RunStatus) -> Seconds:
    begun = status.started_at if status.started_at is not None else status.ended_at
    return (begun or 0.0) - status.submitted_at


def _fairness(
    ended: Sequence[RunStatus], alone: Mapping[RunId, Alone], num_gpus: int
) -> dict[RunId, float]:
    count = _Unfinished(ended)
    ratios: dict[RunId, float] = {}
    for status in ended:
        if status.state is not RunState.SUCCEEDED or status.ended_at is None:
            continue
        mine = alone[status.run_id]
        others = count.mean(status.submitted_at, status.ended_at)
        share = max(
            others * mine.num_gpus / num_gpus, 1.0
        )  # times longer on its share than on its cards
        ratios[status.run_id] = (status.ended_at - status.submitted_at) / (mine.seconds * share)
    return ratios


class _Unfinished:
    """How many runs were submitted and had not ended, over time."""

    def __init__(self, ended: Iterable[RunStatus]) -> None:
        steps: Counter[Seconds] = Counter()
        for status in ended:
            steps[status.submitted_at] += 1
            steps[status.ended_at or status.submitted_at] -= 1
        self._times = sorted(steps)
        self._nums = list(accumulate(steps[at] for at in self._times))
        lengths = (b - a for a, b in zip(self._times, self._times[1:], strict=False))
        areas = (num * length for num, length in zip(self._nums, lengths, strict=False))
        self._areas = [0.0, *accumulate(areas)]  # run-seconds until each moment

    def mean(self, begin: Seconds, end: Seconds) -> float:
        """Mean number between two moments at which something was submitted or ended."""
        if end <= begin:
            return 1.0
        area = self._areas[bisect_left(self._times, end)]
        return (area - self._areas[bisect_left(self._times, begin)]) / (end - begin)


def _energy_kwh(site: Site, busy: Mapping[str, Seconds], makespan: Seconds) -> float | None:
    joules = 0.0
    cards: Counter[str] = Counter()
    for group in site.groups:
        cards[group.gpu] += group.count * group.gpus
    for name, num in cards.items():
        watts = _watts(name)
        if watts is None:
            return None
        idle = max(num * makespan - busy.get(name, 0.0), 0.0)
        joules += watts * (busy.get(name, 0.0) + IDLE_SHARE * idle)
    return joules / 3.6e6


def _watts(name: str) -> float | None:
    try:
        return find_card(name).power_watts
    except ConfigError:
        return None


def _spread(ordered: Sequence[Seconds]) -> dict[str, float]:
    return {
        "mean": round(_mean(ordered) / HOUR, 4),
        "p50": round(quantile(ordered, 0.5) / HOUR, 4),
        "p99": round(quantile(ordered, 0.99) / HOUR, 4),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
