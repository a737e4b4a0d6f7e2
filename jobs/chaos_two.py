"""One drill on a Ray of two nodes: a shuffled list of acts, then the end of all runs, then laws."""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.chaos_acts import ACTS, KINDS, die_at
from jobs.chaos_drill import Drill
from jobs.chaos_nodes import two_nodes
from jobs.chaos_verdict import verdict
from jobs.doom import Point

__all__ = ["drill_two_nodes", "everything", "play"]

_TIMES = {"worker": 8, "raylet": 5, "head-raylet": 2, "head": 3, "stop-worker": 3, "stop-node": 4}
_MORE = (  # where a driver has just told people, or has acted
    *("RunSubmitted:publish", "GangStarted:publish", "ProgressReported:publish"),
    *("RunSubmitted:acted", "GangFailed:acted", "GangFinished:publish", "CancelRequested:acted"),
)


def everything() -> list[str]:
    """A driver that dies at each kind of event before, in and after its commit; all other acts."""
    points = [f"{kind}:{moment}" for kind in KINDS for moment in ("before", "in", "after")]
    return [*points, *_MORE, *(name for name, num in _TIMES.items() for _ in range(num))]


def play(acts: Sequence[str], home: Path, *, seed: int = 0) -> Drill:
    """Play acts in an order that the seed draws, and let all runs end."""
    order = list(acts)
    random.Random(f"{seed}/acts").shuffle(order)
    with two_nodes(home) as nodes:
        drill = Drill(home=home, nodes=nodes)
        for number, act in enumerate(order, start=1):
            begun = time.monotonic()
            if act in ACTS:
                ACTS[act](drill)
            else:
                die_at(drill, Point.parse(act))
            took = time.monotonic() - begun
            print(f"{number:>3}/{len(order)} {act:<28} {took:5.1f} s", flush=True)
        drill.finish()
    return drill


def drill_two_nodes(acts: Sequence[str], *, seed: int = 0) -> int:
    """Play acts, print what was counted and everything that is not as promised; 1 if there is."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orc-chaos-") as folder:
        drill = play(acts, Path(folder), seed=seed)
        wrong = verdict(drill)
    print(f"{time.monotonic() - begun:.0f} s")
    print(*wrong or ["no violation"], sep="\n")
    return 1 if wrong else 0
