"""Bench: cards fill up at random moments; every run has to end as if they had not.

At each point another process takes memory: in training or validation, in the first or a later
epoch, before a whole or the last ragged batch, on one rank or one of two. A run is right when it
ends in the same attempt, every sample of every epoch was trained on once with the same
augmentation, the optimizer took the same steps of the same batch sizes, at most three tries of a
step were lost, and its last validation losses are those of the undisturbed run: to 0.1 % for a
classifier without BatchNorm, and for a detector, whose BatchNorm sees the pieces, within what
another seed does: the difference of two runs has sqrt(2) times the standard deviation of one,
which is taken from five seeds, and three times that is allowed. ultralytics' own trainer gets
the same kind of points on the same emulated card.
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.recovery_peer import Peer, peer
from jobs.recovery_ranks import Gang, serve
from jobs.recovery_runs import Done, Fill, Work, run
from jobs.recovery_work import class_folders, detection_set
from orchestrator.types import BatchPlan, TrainSettings

BATCH, EPOCHS = 8, 3
PLACES = ("first step", "step", "ragged", "validation")


def works(folder: Path) -> dict[str, Work]:
    """What is trained, by name."""
    data, model = detection_set(folder / "boxes", train=3 * BATCH + 4, val=10)
    classes = class_folders(folder / "classes", train=4 * BATCH, val=14)
    plan = BatchPlan(effective_batch=BATCH, world_size=1, micro_batch=BATCH)
    shared: Any = {"imgsz": 64, "epochs": EPOCHS, "workers": 0, "amp": "fp32"}
    yolo = TrainSettings(
        model=str(model), data=str(data), optimizer="SGD", options={"close_mosaic": 0}, **shared
    )
    timm = TrainSettings(model="timm/test_vit", data=str(classes), **shared)
    two = replace(plan, effective_batch=2 * BATCH, world_size=2)
    return {
        "yolo": Work(trainer="yolo", settings=yolo, batch=plan, num_steps=4),
        "timm": Work(trainer="timm", settings=timm, batch=plan, num_steps=4),
        "ranks": Work(trainer="yolo", settings=yolo, batch=two, num_steps=2),
    }


def fill_of(chance: random.Random, work: Work, whole: Done, least: Done, place: str) -> Fill:
    """A moment, and bytes between what samples alone need and what the batch needs."""
    epoch = 1 if place == "first step" else chance.randint(1, EPOCHS)
    step = {
        "first step": 1,
        "step": chance.randint(1, work.num_steps),
        "ragged": work.num_steps,
        "validation": 0,
    }[place]
    floor = int(1.02 * max(least.load.values()))
    peak = whole.load[epoch, step]
    share = chance.uniform(0.05, 0.9)
    room = floor + int(share * max(0, peak - floor))
    return Fill(epoch=epoch, step=step, room=room, lasts=chance.choice((1, 3, 99)))


def faults(done: Done, whole: Done, noise: Mapping[str, float]) -> list[str]:
    """What is wrong with a disturbed run."""
    if done.error:
        return [done.error]
    wrong = list(done.wrong)
    if done.samples != whole.samples:
        wrong.append("other samples")
    if done.sizes != whole.sizes or done.num_updates != whole.num_updates:
        wrong.append(f"{done.num_updates} updates of {sum(done.sizes)} samples")
    if len(done.reported) != EPOCHS:
        wrong.append(f"{len(done.reported)} epochs")
    places = Counter((r.epoch, r.in_validation) for r in done.recuts if r.new < r.old)
    if places and max(places.values()) > 3:
        wrong.append(f"{max(places.values())} tries of one step lost")
    last, wanted = done.reported[-1].metrics, whole.reported[-1].metrics
    wrong += [
        f"{name} {last[name]:.4f} for {wanted[name]:.4f}, noise {limit:.4f}"
        for name, limit in noise.items()
        if abs(last[name] - wanted[name]) > limit
    ]
    return wrong


def noise_of(runs: list[Done]) -> dict[str, float]:
    """Three standard deviations of the difference between two seeds, of every validation loss."""
    last = [done.reported[-1].metrics for done in runs]
    names = [name for name in last[0] if name.startswith("val/")]
    return {name: 3 * 2**0.5 * statistics.stdev(m[name] for m in last) for name in names}


class Bench:
    """The works, how each is run, and what undisturbed runs did."""

    def __init__(self, folder: Path, gang: Gang, known: Mapping[str, Work]) -> None:
        self._folder, self._gang, self.known = folder, gang, known
        self._number = 0
        self.whole = {name: self.run(name) for name in known}
        self.least = {name: self.run(name, micro_batch=1) for name in known}
        self.noise = {
            name: noise_of([self.whole[name], *(self.run(name, seed=n) for n in range(1, 5))])
            for name in ("yolo", "ranks")
        }
        loss = self.whole["timm"].reported[-1].metrics["val/loss"]
        self.noise["timm"] = {"val/loss": 1e-3 * loss}

    def run(
        self, name: str, fill: Fill | None = None, *, micro_batch: int = 0, seed: int = 0
    ) -> Done:
        """One run of a work, by its name."""
        if name == "ranks":
            return self._gang.run(fill, micro_batch=micro_batch, seed=seed)
        work = self.known[name]
        work = replace(work, settings=replace(work.settings, seed=seed))
        if micro_batch:
            work = replace(work, batch=replace(work.batch, micro_batch=micro_batch))
        self._number += 1
        return run(self._folder / str(self._number), work, fill)

    def points(self, count: int, seed: int) -> int:
        """Run so many disturbed runs, a line each; how many ended wrong."""
        chance, lost, bad = random.Random(seed), list[int](), 0
        for number in range(count):
            name = ("yolo", "timm", "yolo", "timm", "ranks")[number % 5]
            place = PLACES[number // 5 % len(PLACES)]
            fill = fill_of(chance, self.known[name], self.whole[name], self.least[name], place)
            done = self.run(name, fill)
            wrong = faults(done, self.whole[name], self.noise[name])
            bad += bool(wrong)
            lost.append(sum(r.new < r.old for r in done.recuts))
            cuts = " ".join(f"{r.old}->{r.new}" for r in done.recuts) or "fitted"
            told = "; ".join(wrong) or "as undisturbed"
            print(f"{number:2} {name:5} {place:10} epoch {fill.epoch}: {cuts}: {told}", flush=True)
        hit = sum(n > 0 for n in lost)
        print(f"{count} points, {hit} ran out of memory, {bad} ended wrong")
        print(f"tries lost a point: mean {statistics.mean(lost):.2f}, most {max(lost)}")
        return bad

    def peers(self, count: int, seed: int) -> None:
        """The same kind of points with ultralytics' own trainer and its own handling."""
        chance, found, work = random.Random(seed), list[Peer](), self.known["yolo"]
        for number in range(count):
            place = PLACES[number % len(PLACES)]
            fill = fill_of(chance, work, self.whole["yolo"], self.least["yolo"], place)
            found.append(peer(self._folder / f"peer{number}", work, fill))
            print(f"ultralytics {number:2} {place:10} epoch {fill.epoch}: {found[-1]}", flush=True)
        died = sum(bool(each.error) for each in found)
        changed = sum(each.batch != work.batch.effective_batch for each in found)
        print(f"ultralytics' own: {died} of {count} died, {changed} changed their batch")


def main() -> None:
    """Run all points, and end with 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"points": 50, "seed": 0, "peer-points": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = works(folder)
        with serve(known["ranks"], folder / "ranks") as gang:
            bench = Bench(folder, gang, known)
            print({name: {k: round(v, 4) for k, v in n.items()} for name, n in bench.noise.items()})
            bad = bench.points(args.points, args.seed)
        bench.peers(args.peer_points, args.seed)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
