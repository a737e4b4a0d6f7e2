"""Plays thousands of seeded schedules of faults on small simulated clusters; no law may break.

`python -m jobs.bench_faults` plays 10,000: partitions, messages that come twice or late, wrong
dates, lost nodes, workers that die or hang, bad cards, full disks, torn answers, drivers that die
before or after any operation. `--seed N` plays one again.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import asdict

from jobs.fault_drill import Played, play

__all__ = ["main"]

REPLAYED_EVERY = 20  # schedules, of which one is played twice: equal seeds give equal bytes
MAX_TOLD = 20


def main(num: int, *, first: int = 0, until_broken: bool = False, as_json: bool = False) -> int:
    """Play `num` schedules from seed `first` on; 0 when every law held, else 1."""
    began = time.process_time()
    broken: list[Played] = []
    totals: Counter[str] = Counter()
    for seed in range(first, first + num):
        played = play(seed)
        if seed % REPLAYED_EVERY == 0 and not played.broken and play(seed) != played:
            played = Played(seed=seed, broken="I13: the same seed gave other events")
        totals.update(
            schedules=1,
            events=played.num_events,
            driver_deaths=played.num_deaths,
            checks=played.num_checks,
        )
        if played.broken:
            broken.append(played)
            if until_broken:
                break
    seconds = time.process_time() - began
    if as_json:
        report: dict[str, object] = {
            "schema_version": 1,
            **totals,
            "cpu_seconds": round(seconds, 1),
        }
        report |= {"schedules_per_second": round(totals["schedules"] / seconds, 1)}
        report |= {"broken": [asdict(one) for one in broken]}
        print(json.dumps(report))
    else:
        for name, number in totals.items():
            print(f"{name:<22} {number:,}")
        print(f"{'CPU seconds':<22} {seconds:,.1f}")
        print(f"{'schedules a second':<22} {totals['schedules'] / seconds:,.1f}")
        print(f"{'broken laws':<22} {len(broken)}")
        for one in broken[:MAX_TOLD]:
            print(f"  seed {one.seed}: {one.broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this schedule alone")
    parser.add_argument("--until-broken", action="store_true", help="stop at the first broken law")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    alone = args.seed is not None
    sys.exit(
        main(
            1 if alone else args.schedules,
            first=args.seed if alone else args.first,
            until_broken=args.until_broken,
            as_json=args.json,
        )
    )
