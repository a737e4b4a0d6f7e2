"""Places runs of which nothing is known, lets them train, and others like them, round by round.

`python -m jobs.bench_throughput FOLDER [--cases 100] [--seeds report] [--json]`

FOLDER has Gavel's tables. A case has cards and a few kinds of trainings, of which each round draws
its runs. In the first round only what each card does on paper is known, in each further one what
the epochs before have shown, read off the tables with a scatter. Told is the worth of a round's
placement, by the tables, against the best there is (2 to 4 cards), or against a placement that
knows the tables (60 cards); the same of placements that ask for no speed. Constants were chosen on
the seeds `tune` and `tune2`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from jobs.bench_placement import SIMPLE, CardSum, best_of_all, by_speeds, total
from orchestrator.errors import OrchestratorError
from orchestrator.schedule.assign import Objective, Speeds
from orchestrator.schedule.throughput import Sample, Throughput, Verdict
from orchestrator.simulation.gavel import REFERENCE, read_speeds

__all__ = ["WORTHS", "main", "train"]

# Peak TFLOP/s in fp32 by NVIDIA's data sheets (one GPU of the K80's two, boost), over the V100's.
WORTHS = {"k80": 4.37 / 15.7, "p100": 9.3 / 15.7, "v100": 1.0}
SCATTER = 0.03  # standard deviation of the seconds of an epoch, relative
EPOCHS = 3  # of each run in a round, the first of an attempt not counted
TRAININGS = 6  # different ones of a case
TOLD = (1, 2, 3, 5, 10, 20)  # rounds
SIZES = {"small": ((2, 4), (3, 6), 100), "60 cards": ((60, 60), (30, 150), 6)}


def main() -> int:
    """Run the rounds and print how near each comes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seeds", default="report")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    try:
        speeds = read_speeds(words.folder)
    except OrchestratorError as error:
        print(f"error[{error.code}]: {error}", *error.why, *error.fix, sep="\n  ", file=sys.stderr)
        return error.exit_code
    rows = [_row(speeds, size, words.cases, words.seeds) for size in SIZES]
    if words.json:
        print(json.dumps({"schema_version": 1, "seeds": words.seeds, "rows": rows}))
    else:
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()))
    return 0


def _row(speeds: Speeds, size: str, num_cases: int, seeds: str) -> dict[str, Any]:
    cards, runs, share = SIZES[size]
    pool = sorted({name for name, _ in speeds.alone})
    shares: list[list[float]] = []
    simple: dict[str, list[float]] = {name: [] for name in SIMPLE}
    num_parted = num_wrong = 0
    worth = CardSum(speeds, Objective.WORTH)
    num = max(1, num_cases * share // 100)
    for number in range(num):
        chance = Random(f"{seeds}/{size}/{number}")
        few = chance.sample(pool, TRAININGS)
        kinds = [chance.choice(sorted(WORTHS)) for _ in range(chance.randint(*cards))]
        queues = [chance.choices(few, k=chance.randint(*runs)) for _ in range(max(TOLD))]
        known = Throughput()
        shares.append([])
        for queue in queues:
            best = _best(queue, kinds, speeds, is_small=size == "small")
            shares[-1].append(train(queue, kinds, speeds, known, chance) / best)
            for name, place in SIMPLE.items():
                simple[name].append(total(place(queue, kinds, worth), kinds, worth) / best)
        parted, wrong = _parted(few, known, worth)
        num_parted, num_wrong = num_parted + parted, num_wrong + wrong
    row: dict[str, Any] = {"size": size, "cases": num}
    for told in TOLD:
        of_round = [each[told - 1] for each in shares]
        row[f"round_{told}_median"] = round(statistics.median(of_round), 4)
        row[f"round_{told}_min"] = round(min(of_round), 4)
    for name, each in simple.items():
        row[f"{name}_median"] = round(statistics.median(each), 4)
    return row | {"parted": num_parted, "parted_wrongly": num_wrong}


def train(
    queue: Sequence[str], kinds: Sequence[str], speeds: Speeds, known: Throughput, chance: Random
) -> float:
    """Place the runs by what is known, and learn from their epochs; what it was worth in truth."""
    for kind, paper in WORTHS.items():
        known.rate(kind, paper)
    guess = _that_fit(known.speeds(queue, WORTHS, REFERENCE), speeds)
    there = by_speeds(queue, kinds, guess, Objective.WORTH)
    for names, kind in zip(there, kinds, strict=True):
        for at, name in enumerate(names):
            beside = tuple(names[:at] + names[at + 1 :])
            true = speeds.beside[name, beside[0], kind] if beside else speeds.alone[name, kind]
            for _ in range(EPOCHS):
                rate = true * max(chance.gauss(1.0, SCATTER), 0.5)
                known.learn(
                    Sample(signature=name, kind=kind, images_per_second=rate, beside=beside)
                )
    return total(there, kinds, CardSum(speeds, Objective.WORTH))


def _best(queue: list[str], kinds: list[str], speeds: Speeds, *, is_small: bool) -> float:
    worth = CardSum(speeds, Objective.WORTH)
    if is_small:
        return best_of_all(queue, kinds, worth)
    return total(by_speeds(queue, kinds, speeds, Objective.WORTH), kinds, worth)


def _that_fit(guess: Speeds, speeds: Speeds) -> Speeds:
    """Without pairs that do not fit in memory: that is known beforehand."""
    beside = {key: value for key, value in guess.beside.items() if speeds.beside.get(key, 0.0) > 0}
    return Speeds(alone=guess.alone, beside=beside, reference=guess.reference)


def _parted(queue: Sequence[str], known: Throughput, worth: CardSum) -> tuple[int, int]:
    """Pairs that were parted, and how many of them are worth more than one of them alone."""
    names = sorted(set(queue))
    pairs = [
        (one, other, kind)
        for kind in WORTHS
        for at, one in enumerate(names)
        for other in names[at:]
        if known.pair(one, other, kind).verdict is Verdict.PARTED
    ]
    return len(pairs), sum(worth.relative((one, other), kind) >= 1.0 for one, other, kind in pairs)


if __name__ == "__main__":
    sys.exit(main())
