"""Compares the placement by throughput with first-fit and with every placement there is.

`python -m jobs.bench_placement FOLDER [--cases 500] [--seeds report] [--json]`, FOLDER with Gavel's
tables. Cases are drawn from seeds `SEEDS/SIZE/NUMBER`; the constants of the search were chosen on
the seeds `tune`. Exits 1 when a small case stays below 95 % of the best, or any below first-fit.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from orchestrator.errors import OrchestratorError
from orchestrator.schedule.assign import Objective, Seeker, Speeds, Spot, assign
from orchestrator.simulation.gavel import read_mix, read_speeds
from orchestrator.types import RunId

__all__ = ["SIMPLE", "CardSum", "bench", "best_of_all", "by_speeds", "main", "total"]

KINDS = ("k80", "p100", "v100")
LEAST = 0.95  # of the best placement, in every small case
# Name: cards, runs, how many cases of each hundred that are asked for, all placements looked at.
SIZES = {
    "small": ((2, 4), (3, 6), 100, True),
    "medium": ((5, 6), (7, 10), 10, True),
    "60 cards": ((60, 60), (30, 150), 4, False),
    "1,000 cards": ((1000, 1000), (500, 2000), 2, False),
}
_Cards: TypeAlias = list[list[str]]  # who is on each card


def main() -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seeds", default="report")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    try:
        speeds, mix = read_speeds(words.folder), read_mix(words.folder)
    except OrchestratorError as error:
        print(f"error[{error.code}]: {error}", *error.why, *error.fix, sep="\n  ", file=sys.stderr)
        return error.exit_code
    rows = bench(speeds, mix, words.cases, words.seeds)
    if words.json:
        print(json.dumps({"schema_version": 1, "seeds": words.seeds, "rows": rows}))
    else:
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()))
    return int(
        any(row.get("of_best_min", 1.0) < LEAST and row["size"] == "small" for row in rows)
        or any(row["below_first_fit"] for row in rows)
    )


def bench(speeds: Speeds, mix: Sequence[str], num_cases: int, seeds: str) -> list[dict[str, Any]]:
    """One row for each objective and size."""
    return [
        _compare(speeds, mix, objective, size, num_cases, seeds)
        for objective in Objective
        for size in SIZES
    ]


def _compare(
    speeds: Speeds, mix: Sequence[str], objective: Objective, size: str, num_cases: int, seeds: str
) -> dict[str, Any]:
    cards, runs, share, is_small = SIZES[size]
    worth = CardSum(speeds, objective)
    of_best, seconds = [], []
    against: dict[str, list[float]] = {name: [] for name in SIMPLE}
    num = max(1, num_cases * share // 100)
    for number in range(num):
        chance = Random(f"{seeds}/{size}/{number}")
        pool = sorted({name for name, _ in speeds.alone}) if number % 2 else mix
        queue = [chance.choice(pool) for _ in range(chance.randint(*runs))]
        kinds = [chance.choice(KINDS) for _ in range(chance.randint(*cards))]
        began = time.process_time()
        there = by_speeds(queue, kinds, speeds, objective)
        seconds.append(time.process_time() - began)
        ours = total(there, kinds, worth)
        for name, place in SIMPLE.items():
            against[name].append(ours / total(place(queue, kinds, worth), kinds, worth))
        if is_small:
            of_best.append(ours / best_of_all(queue, kinds, worth))
    row: dict[str, Any] = {"objective": objective.value, "size": size, "cases": num}
    if of_best:
        row |= {
            "of_best_min": round(min(of_best), 4),
            "of_best_median": round(statistics.median(of_best), 4),
            "share_at_best": round(sum(x > 1 - 1e-9 for x in of_best) / num, 4),
        }
    for name, ratios in against.items():
        row |= {f"{name}_times_min": round(min(ratios), 3)}
        row |= {f"{name}_times_median": round(statistics.median(ratios), 3)}
    row["below_first_fit"] = sum(x < 1 - 1e-9 for x in against["first_fit"])
    return row | {"cpu_ms_max": round(1000 * max(seconds), 1)}


class CardSum:
    """What the runs on one card add up to; None when they cannot be there."""

    def __init__(self, speeds: Speeds, objective: Objective) -> None:
        self._speeds, self._scales = speeds, speeds.scales(objective)

    def __call__(self, there: Sequence[str], kind: str) -> float | None:
        """For the signatures on a card of this kind."""
        if len(there) > 2:
            return None
        if len(there) < 2:
            return sum(self._speeds.alone[name, kind] * self._scales[name] for name in there)
        first, second = there
        ours = self._speeds.beside.get((first, second, kind), 0.0)
        theirs = self._speeds.beside.get((second, first, kind), 0.0)
        fits = ours > 0 and theirs > 0
        return ours * self._scales[first] + theirs * self._scales[second] if fits else None

    def relative(self, pair: tuple[str, str], kind: str) -> float:
        """The sum of the speeds of two on a card, each over its speed alone on that card."""
        first, second = pair
        ours = self._speeds.beside[first, second, kind] / self._speeds.alone[first, kind]
        theirs = self._speeds.beside[second, first, kind] / self._speeds.alone[second, kind]
        return ours + theirs


def total(there: _Cards, kinds: Sequence[str], worth: CardSum) -> float:
    """What all cards add up to; every card must be able to hold what is on it."""
    sums = [worth(mine, kind) for mine, kind in zip(there, kinds, strict=True)]
    assert None not in sums
    return sum(each for each in sums if each is not None)


def best_of_all(queue: Sequence[str], kinds: Sequence[str], worth: CardSum) -> float:
    """The most that any placement of these runs on these cards adds up to."""

    @cache
    def best(at: int, left: frozenset[int]) -> float:
        if at == len(kinds):
            return 0.0
        found = best(at + 1, left)
        for first in left:
            for second in (run for run in left if run >= first):
                mine = sorted({first, second})
                value = worth([queue[run] for run in mine], kinds[at])
                if value is not None:
                    found = max(found, value + best(at + 1, left.difference(mine)))
        return found

    return best(0, frozenset(range(len(queue))))


def by_speeds(
    queue: Sequence[str], kinds: Sequence[str], speeds: Speeds, objective: Objective
) -> _Cards:
    """Signatures on each card, as the product places them."""
    seekers = [Seeker(run_id=RunId(str(at)), signature=name) for at, name in enumerate(queue)]
    spots = [Spot(name=str(at), kind=kind) for at, kind in enumerate(kinds)]
    there: _Cards = [[] for _ in kinds]
    for run_id, spot in assign(seekers, spots, speeds, objective=objective).places.items():
        there[int(spot)].append(queue[int(run_id)])
    return there


def _first_fit(queue: Sequence[str], kinds: Sequence[str], worth: CardSum) -> _Cards:
    """Each run on the first card whose memory holds it beside what is there."""
    return _in_turn(
        queue, kinds, lambda run, at, there: worth([*there, run], kinds[at]) is not None
    )


def _one_a_card(queue: Sequence[str], kinds: Sequence[str], _: CardSum) -> _Cards:
    """Each run on the first card that is free."""
    return _in_turn(queue, kinds, lambda _, __, there: not there)


def _free_first(queue: Sequence[str], kinds: Sequence[str], worth: CardSum) -> _Cards:
    """Each run on the first card that is free, and once all are taken as in first-fit."""
    there = _one_a_card(queue, kinds, worth)
    rest = queue[len(kinds) :]
    more = _in_turn(
        rest, kinds, lambda run, at, new: worth([*there[at], *new, run], kinds[at]) is not None
    )
    return [[*mine, *new] for mine, new in zip(there, more, strict=True)]


def _in_turn(
    queue: Sequence[str], kinds: Sequence[str], fits: Callable[[str, int, list[str]], bool]
) -> _Cards:
    there: _Cards = [[] for _ in kinds]
    for run in queue:
        at = next((at for at, mine in enumerate(there) if fits(run, at, mine)), None)
        if at is not None:
            there[at].append(run)
    return there


SIMPLE: Mapping[str, Callable[[Sequence[str], Sequence[str], CardSum], _Cards]] = {
    "first_fit": _first_fit,
    "one_a_card": _one_a_card,
    "free_first": _free_first,
}

if __name__ == "__main__":
    sys.exit(main())
