"""Gangs on a cluster: one worker against two, and twelve projects while nodes come and go.

`python -m jobs.bench_cluster parity` trains the same YOLO model with one worker and with two at the
same effective batch, with `--sync-bn` two whose BatchNorm works together; `nodes` is the drill.
Exits 1 where the one or the other is not as promised.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from jobs.cluster_drill import drill_nodes
from jobs.yolo_link import DATA
from orchestrator.store.sql import SqlStore
from orchestrator.trainer.yolo_apart import apart

_MAP50 = "metrics/mAP50(B)"
_WITHIN = 0.02  # mAP50, the mean over the seeds
_WEIGHTS = str(DATA / "weights" / "yolov8n.pt")
_BATCH = 8  # four steps an epoch
_RUNS: Mapping[str, Mapping[str, Any]] = {
    "one": {},
    "cut": {"micro_batch": _BATCH // 2},
    "two": {"resources": {"gpus": 2}},
}
_SYNCED: Mapping[str, Mapping[str, Any]] = {
    "one": {},
    "near": {},  # from other weights
    "two": {"resources": {"gpus": 2}, "ddp": {"sync_bn": True}},
}
_STEADY: Mapping[str, Any] = {"optimizer": "SGD", "lr0": 0.01}
_NEAR = 1e-7  # relative, of each weight: the last digit of single precision
_CHANCE = ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "erasing")
_RESTART_SECONDS = 15.0


def parity(seeds: Sequence[int], epochs: int, imgsz: int, out: Path | None) -> int:
    """Print the best mAP50 of one worker and of two, by seed, and how far seeds alone lie apart.

    Nothing is drawn by chance but the first weights of the head and the order of the pictures, and
    both are the same for all of a seed. A third run tells the one difference that is left, that
    BatchNorm sees pieces: it is one worker whose steps are cut into those that two workers have.

    Fewer than some hundred steps say nothing: after 50, with augmentation, seeds alone were 0.13
    apart (standard deviation), and validation still waits for the running statistics of BatchNorm.

    Each seed's result is kept in `out` as soon as it is there; a seed that is in it already is not
    trained again.
    """
    shape = {"epochs": epochs, "imgsz": imgsz}
    found = [row for row in _kept(out) if row["shape"] == shape and row["seed"] in seeds]
    for row in found:
        _tell(row)
    for seed in seeds:
        if any(row["seed"] == seed for row in found):
            continue
        with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
            curves = _trained(Path(folder), _RUNS, {"seed": seed, **shape})
        found.append({"seed": seed, "shape": shape, **curves})
        _tell(found[-1])
        _keep(found[-1], out)
    best = {name: [max(row[name]["mAP50"]) for row in found] for name in _RUNS}
    gaps, same = (
        [two - one for one, two in zip(best[name], best["two"], strict=True)]
        for name in ("one", "cut")
    )
    mean = statistics.fmean(gaps)
    print(f"mean difference of mAP50 {mean:+.4f}, allowed {_WITHIN}")
    print(f"from one worker whose BatchNorm sees the same pieces {statistics.fmean(same):+.4f}")
    if len(found) > 1:
        apart = {name: statistics.stdev(values) for name, values in best.items()}
        print(
            f"standard deviation over seeds: one {apart['one']:.4f}, cut {apart['cut']:.4f},"
            f" two {apart['two']:.4f}; of the differences {statistics.stdev(gaps):.4f}"
        )
    return int(abs(mean) > _WITHIN)


def parity_synced(seeds: Sequence[int], epochs: int, imgsz: int, out: Path | None) -> int:
    """Print the mAP50 of one worker and of two whose BatchNorm works together, by seed.

    The step is the same one up to rounding (the loss of the first step agrees to 1e-7), but
    training enlarges any difference. So a third run is one worker from weights that differ in
    their last digit: how far apart two trainings are that should be one. AdamW divides a gradient
    by its own size, and made 1e-2 of the loss of it within ten steps, SGD 1e-4 (both with lr0
    0.001): so here it is SGD. The 8 pictures of the small validation set would add noise of their
    own: these runs are judged by the 87 of the whole one, after as many epochs as bring mAP50 near
    where it stays.
    """
    shape = {"epochs": epochs, "imgsz": imgsz, "sync_bn": True}
    found = [row for row in _kept(out) if row["shape"] == shape and row["seed"] in seeds]
    for seed in seeds:
        if any(row["seed"] == seed for row in found):
            continue
        with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
            home = Path(folder)
            settings = {"seed": seed, "epochs": epochs, "imgsz": imgsz, **_STEADY}
            settings["data"] = str(_judged_by_all(home))
            _write_near(home / "near.pt", seed)
            runs = {**_SYNCED, "near": {"model": str(home / "near.pt")}}
            found.append({"seed": seed, "shape": shape, **_trained(home, runs, settings)})
        _keep(found[-1], out)
    gaps: dict[str, list[float]] = {}
    for row in found:
        one = row["one"]
        for name in ("two", "near"):
            other = row[name]
            first = abs(other["loss"][0] / one["loss"][0] - 1.0)
            best, last = (
                of(other["mAP50"]) - of(one["mAP50"]) for of in (max, lambda curve: curve[-1])
            )
            gaps.setdefault(f"{name}, best", []).append(best)
            gaps.setdefault(f"{name}, last", []).append(last)
            print(
                f"seed {row['seed']}, {name} against one: loss of the first epoch {first:.1e},"
                f" mAP50 best {best:+.4f}, last {last:+.4f} (one {max(one['mAP50']):.4f},"
                f" {one['mAP50'][-1]:.4f})"
            )
    means = {name: statistics.fmean(values) for name, values in gaps.items()}
    for name, mean in means.items():
        print(f"mean difference of mAP50, {name}: {mean:+.4f}, allowed {_WITHIN}")
    return int(any(abs(means[f"two, {which}"]) > _WITHIN for which in ("best", "last")))


def _judged_by_all(home: Path) -> Path:
    """The small data set, with the validation pictures of the whole one."""
    file = home / "data.yaml"
    parts = {"train": DATA / "det_bccd_tiny/images/train", "val": DATA / "det_bccd/images/val"}
    names = {0: "WBC", 1: "RBC", 2: "Platelets"}
    about = {key: str(part.resolve()) for key, part in parts.items()} | {"nc": 3, "names": names}
    file.write_text(yaml.safe_dump(about), encoding="utf-8")
    return file


def _write_near(file: Path, seed: int) -> None:
    """Weights that differ from those that the runs begin with in the last digit."""
    with apart(str(file.parent / "near")):
        from ultralytics.nn.tasks import load_checkpoint

        model, _ = load_checkpoint(_WEIGHTS)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.float().parameters():
                noise = torch.randn(parameter.shape, generator=chance)
                parameter.mul_(1.0 + _NEAR * noise)
        torch.save({"model": model, "train_args": {}, "epoch": -1}, file)


def _keep(row: Mapping[str, Any], out: Path | None) -> None:
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _kept(out: Path | None) -> list[dict[str, Any]]:
    if out is None or not out.exists():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _tell(row: Mapping[str, Any]) -> None:
    best = {name: max(row[name]["mAP50"]) for name in _RUNS}
    losses = [row[name]["loss"] for name in ("cut", "two")]
    apart = [abs(two / cut - 1.0) for cut, two in zip(*losses, strict=True)]
    print(
        f"seed {row['seed']}: best mAP50 one {best['one']:.4f}, two {best['two']:.4f}"
        f" ({best['two'] - best['one']:+.4f}), one in pieces {best['cut']:.4f};"
        f" losses of two and of one in pieces differ by {apart[0]:.1e} in the first epoch,"
        f" at most {max(apart):.1e}",
        flush=True,
    )


def _trained(
    home: Path, runs: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """The mAP50 and the training loss of each epoch, by run."""
    shared = {
        "model": _WEIGHTS,
        "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
        "batch": _BATCH,
        "workers": 0,
        "optimizer": "AdamW",
        "lr0": 0.001,
        "warmup_epochs": 0,  # ultralytics takes 100 steps at least, more than there are
        **dict.fromkeys(_CHANCE, 0.0),
        **settings,
    }
    config = {
        "cluster": {"emulate": ["4x RTX 3090"]},
        "runs": str(home / "runs"),
        "defaults": {**shared, "memory": {"predict": False}},
        "projects": [{"name": name, **given} for name, given in runs.items()],
    }
    file = home / "parity.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    words = [sys.executable, "-m", "orchestrator", "train", str(file), "--home", str(home)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the command itself
    found: dict[str, dict[str, list[float]]] = {}
    with SqlStore(str(home / "orchestrator.db")) as store:
        for status in store.statuses():
            rows = [row.metrics for row in store.progress(status.run_id)]
            losses = [sum(v for k, v in row.items() if k.startswith("train/")) for row in rows]
            found[status.project] = {"mAP50": [row[_MAP50] for row in rows], "loss": losses}
    return found


def nodes(home: Path) -> int:
    """Print what the drill saw."""
    told = drill_nodes(home)
    print(f"{sum(told.states.values())} projects in {told.seconds:.0f} s: {dict(told.states)}")
    print(f"attempts: {sum(told.attempts.values())}; failures: {'; '.join(told.causes) or 'none'}")
    print(f"wrong: {'; '.join(told.wrong) or 'none'}; processes left after 15 s: {told.left_over}")
    after = told.restart_seconds
    print(
        "the gang that lost a rank", f"was whole again after {after:.1f} s" if after else "is not"
    )
    is_late = after is None or after > _RESTART_SECONDS
    return int(bool(told.wrong) or told.states["SUCCEEDED"] != 12 or is_late or told.left_over > 0)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["parity", "nodes"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="default: 100, with --sync-bn 30")
    parser.add_argument("--sync-bn", action="store_true", help="BatchNorm over both workers")
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--out", type=Path, help="a line of JSON a seed; goes on where it ended")
    given = parser.parse_args()
    if given.what == "parity":
        compare, usual = (parity_synced, 30) if given.sync_bn else (parity, 100)
        return compare(given.seeds, given.epochs or usual, given.imgsz, given.out)
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
        return nodes(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
