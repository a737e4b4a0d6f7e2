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

__all__ = ["drill_two_nodes", "everything", "play", "real_ones"]

_TIMES = {"worker": 8, "raylet": 3, "head-raylet": 1, "head": 2, "stop-worker": 2, "stop-node": 2}
_MORE = ("GangStarted:publish", "ProgressReported:acted", "GangFailed:acted")
_GROUPS = 4  # acts that need a driver which trains come together: one driver serves several


def real_ones() -> list[str]:
    """A few acts of each kind, for trainings that take their time."""
    points = ["GangStarted:in", "ProgressReported:in", "ProgressReported:after", "GangFinished:in"]
    return [*points, "worker", "worker", "raylet", "head", "stop-node"]


def everything() -> list[str]:
    """A driver that dies at each kind of event before, in and after its commit; all other acts."""
    points = [f"{kind}:{moment}" for kind in KINDS for moment in ("before", "in", "after")]
    return [*points, *_MORE, *(name for name, num in _TIMES.items() for _ in range(num))]


def play(acts: Sequence[str], home: Path, *, seed: int = 0, is_real: bool = False) -> Drill:
    """Play acts in an order that the seed draws, and let all runs end."""
    order = _drawn(acts, seed)
    with two_nodes(home) as nodes:
        drill = Drill(home=home, nodes=nodes, is_real=is_real, epochs=6 if is_real else 20)
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


def _drawn(acts: Sequence[str], seed: int) -> list[str]:
    """Points in any order, and between them groups of the other acts in any order."""
    chance = random.Random(f"{seed}/acts")
    points = [act for act in acts if act not in ACTS]
    others = [act for act in acts if act in ACTS]
    chance.shuffle(points)
    chance.shuffle(others)
    order: list[str] = []
    for group in range(_GROUPS):
        order += points[group::_GROUPS] + others[group::_GROUPS]
    return order


def drill_two_nodes(acts: Sequence[str], *, seed: int = 0, is_real: bool = False) -> int:
    """Play acts, print what was counted and everything that is not as promised; 1 if there is."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orc-chaos-") as folder:
        drill = play(acts, Path(folder), seed=seed, is_real=is_real)
        wrong = verdict(drill)
    print(f"{time.monotonic() - begun:.0f} s")
    print(*wrong or ["no violation"], sep="\n")
    return 1 if wrong else 0
