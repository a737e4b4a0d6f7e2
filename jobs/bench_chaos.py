"""Kills driver, worker or Ray at random moments until all runs end, and counts what was lost.

`python -m jobs.bench_chaos --kills 20 --target driver worker ray --seed 0 [--real]`; exits 1 on a
violation. `--real` trains a YOLO detector and a timm classifier in place of stub runs. With
`--two-nodes` it is one drill on a Ray of two nodes, which hurts everything there is: drivers that
kill themselves at every kind of event, workers, nodes, the head, and processes that are stopped
and go on when they count as lost.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.chaos import Tally, descendants, left_over, victims, violations
from jobs.chaos_two import drill_two_nodes, everything, real_ones
from jobs.chaos_work import RealWork, StubWork, Work
from orchestrator.store.sql import SqlStore
from orchestrator.types import Seconds

__all__ = ["drill", "main"]

LIMIT: Seconds = 300.0  # a driver that neither ends nor can be killed by then hangs


def drill(target: str, num_kills: int, seed: int, home: Path, work: Work) -> Tally:
    """Kill `target` so many times, at moments counted from the driver's start; then let it end."""
    chance = random.Random(f"{seed}/{target}")
    tally = Tally(target=target)
    log = (home / "driver.log").open("ab")
    while True:
        is_over = _num_ended(home) == tally.rounds * work.num_runs
        if is_over and tally.kills >= num_kills:
            break
        if is_over:
            work.begin(home, tally.rounds)
            tally.rounds += 1
        driver = subprocess.Popen(work.command(home), stdout=log, stderr=log)  # noqa: S603 - ours
        while tally.kills < num_kills and driver.poll() is None:
            moment = time.monotonic() + chance.uniform(0.0, work.moments)
            doomed = victims(driver, target, not_before=moment, limit=LIMIT)
            family = descendants(driver.pid)
            if not doomed:
                break
            for process in doomed:
                process.kill()
            tally.kills += 1
            if target != "worker":
                tally.wait_for_end(driver, LIMIT)
                tally.survivors += left_over(family)
        tally.wait_for_end(driver, LIMIT)
        _demand_accepted(driver, home)
    log.close()
    return tally


def _demand_accepted(driver: subprocess.Popen[bytes], home: Path) -> None:
    """End the drill where its own config is refused: it would be so for ever."""
    if driver.returncode == 2:
        sys.exit((home / "driver.log").read_text()[-1000:])


def _num_ended(home: Path) -> int:
    with SqlStore(str(home / "orchestrator.db")) as store:
        return sum(status.state.is_terminal for status in store.statuses())


def main() -> int:
    """Run the drills and print one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--target", nargs="+", default=["driver", "worker", "ray"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--two-nodes", action="store_true")
    words = parser.parse_args()
    if words.two_nodes:
        acts = real_ones() if words.real else everything()
        return drill_two_nodes(acts, seed=words.seed, is_real=words.real)
    work: Work = RealWork() if words.real else StubWork()
    print(
        "target  kills  rounds  runs  epochs  attempts  repeated  hangs  survivors  end[s]  seconds"
    )
    wrong: list[str] = []
    for target in words.target:
        with tempfile.TemporaryDirectory(prefix="orc-chaos-") as folder:
            begun = time.monotonic()
            tally = drill(target, words.kills, words.seed, Path(folder), work)
            wrong += violations(tally, Path(folder), work.epochs)
            print(tally.line(time.monotonic() - begun), flush=True)
    print(*wrong or ["no violation"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
