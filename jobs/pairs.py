"""Two ways to train, in turn and in pairs, each in a process of its own: ratios of their speeds."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from jobs.yolo_link import Stamp

__all__ = ["GOAL", "compared", "stamp"]

GOAL = 0.97  # the least median ratio of images/s that may be called no overhead


def stamp() -> Stamp:
    """Wall and processor seconds, those of living loading processes included."""
    cpu = time.process_time()
    for child in psutil.Process().children(recursive=True):
        used = child.cpu_times()
        cpu += used.user + used.system
    return time.monotonic(), cpu


def compared(module: str, given: argparse.Namespace, root: Path, *, images: int) -> float:
    """Print both speeds of every pair, then median and scatter; return the median wall ratio.

    Which of the two goes first alternates. An odd one out (another program awake) moves a pair's
    ratio, hardly the median.

    Args:
        module: Run with `--who native|ours --folder PATH`; prints the stamps of its epochs' ends
            as its last line, in JSON. The first epoch is a warm-up and is left out on both sides.
        given: Its other arguments; `pairs` says how many pairs, `epochs` how many epochs.
        root: For the folders of the runs.
        images: Images that an epoch trains on, for people.
    """
    ratios: list[Stamp] = []
    for pair in range(1, given.pairs + 1):
        order = ("native", "ours") if pair % 2 else ("ours", "native")
        took = {who: _epoch_seconds(module, given, who, root / f"{who}{pair}") for who in order}
        wall, cpu = (a / b for a, b in zip(took["native"], took["ours"], strict=True))
        ratios.append((wall, cpu))
        both = "  ".join(
            f"{who} {images / took[who][0]:.1f} images/s ({took[who][1]:.2f} CPU s)"
            for who in order
        )
        print(f"pair {pair}: {both}  ratio {wall:.3f}, of CPU time {cpu:.3f}", flush=True)
    for name, column in zip(("images/s", "CPU time"), zip(*ratios, strict=True), strict=True):
        print(
            f"{name}: median ratio {statistics.median(column):.3f}"
            f" ({min(column):.3f} to {max(column):.3f}) over {len(column)} pairs"
        )
    return statistics.median(wall for wall, _ in ratios)


def _epoch_seconds(module: str, given: argparse.Namespace, who: str, folder: Path) -> Stamp:
    words = [f"--{k}={v}" for k, v in vars(given).items() if k not in ("who", "folder")]
    command = [sys.executable, "-m", module, *words, f"--who={who}", f"--folder={folder}"]
    folder.mkdir(parents=True)
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(  # noqa: S603 - a module of ours
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    shutil.rmtree(folder)
    first, *_, last = json.loads(done.stdout.splitlines()[-1])
    count = given.epochs - 1
    return (last[0] - first[0]) / count, (last[1] - first[1]) / count
