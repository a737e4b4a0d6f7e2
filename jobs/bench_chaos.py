"""Kills driver, worker or Ray at random moments until the stub runs end, and counts what was lost.

`python -m jobs.bench_chaos --kills 20 --target driver worker ray --seed 0`; exits 1 on a violation.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.chaos import Tally, descendants, left_over, victims, violations
from orchestrator.messages import RunSubmitted
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId, RunSpec, Seconds, TrainSettings

__all__ = ["main"]

NUM_RUNS, EPOCHS, EPOCH_SECONDS = 3, 30, 0.2
MOMENTS: Seconds = 15.0  # of a driver's life: Ray starts for 5, gangs train for 6
LIMIT: Seconds = 120.0  # a driver that neither ends nor can be killed by then hangs


def submit(home: Path, round_number: int) -> None:
    """Ask for three runs: two that share the smaller card, and one that takes a card whole."""
    options = {"epoch_seconds": EPOCH_SECONDS}
    settings = TrainSettings(model="stub", data="none", imgsz=32, epochs=EPOCHS, options=options)
    with SqlStore(str(home / "orchestrator.db")) as store:
        for number in range(NUM_RUNS):
            run_id = RunId(f"20260101-{round_number:06d}-stub-run-{number:04x}")
            spec = RunSpec(
                run_id=run_id,
                project=f"stub-{number}",
                trainer="fake",
                settings=settings,
                effective_batch=8,
                folder=str(home / "runs" / run_id),
                memory_bytes=2 * 1024**3 if number else None,
            )
            store.ask(RunSubmitted(at=time.time(), spec=spec))


def drill(target: str, num_kills: int, seed: int, home: Path) -> Tally:
    """Kill `target` so many times, at moments counted from the driver's start; then let it end."""
    chance = random.Random(f"{seed}/{target}")
    tally = Tally(target=target)
    log = (home / "driver.log").open("ab")
    while True:
        with SqlStore(str(home / "orchestrator.db")) as store:
            ended = sum(status.state.is_terminal for status in store.statuses())
        is_over = ended == tally.rounds * NUM_RUNS
        if is_over and tally.kills >= num_kills:
            break
        if is_over:
            submit(home, tally.rounds)
            tally.rounds += 1
        command = [sys.executable, "-m", "jobs.stub_driver", str(home)]
        driver = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own module
        while tally.kills < num_kills and driver.poll() is None:
            moment = time.monotonic() + chance.uniform(0.0, MOMENTS)
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
    log.close()
    return tally


def main() -> int:
    """Run the drills and print one line for each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--target", nargs="+", default=["driver", "worker", "ray"])
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    print(
        "target  kills  rounds  runs  epochs  attempts  repeated  hangs  survivors  end[s]  seconds"
    )
    wrong: list[str] = []
    for target in words.target:
        with tempfile.TemporaryDirectory(prefix="orc-chaos-") as folder:
            begun = time.monotonic()
            tally = drill(target, words.kills, words.seed, Path(folder))
            wrong += violations(tally, Path(folder), EPOCHS)
            print(tally.line(time.monotonic() - begun), flush=True)
    print(*wrong or ["no violation"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
