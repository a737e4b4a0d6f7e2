"""Gangs on a cluster: one worker against two, and twelve projects while nodes come and go.

`python -m jobs.bench_cluster parity` trains the same YOLO model with one worker and with two at the
same effective batch; `nodes` is the drill. Exits 1 where the one or the other is not as promised.
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

from jobs.cluster_drill import drill_nodes
from jobs.yolo_link import DATA
from orchestrator.store.sql import SqlStore

_MAP50 = "metrics/mAP50(B)"
_WITHIN = 0.02  # mAP50, the mean over the seeds
_RESTART_SECONDS = 15.0


def parity(seeds: Sequence[int], epochs: int, imgsz: int, out: Path | None) -> int:
    """Print the best mAP50 of one worker and of two, by seed, and how far seeds alone lie apart.

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
            curves = _pair(Path(folder), seed, epochs, imgsz)
        found.append({"seed": seed, "shape": shape, **curves})
        _tell(found[-1])
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found[-1]) + "\n")
    ones = [max(row["one"]) for row in found]
    gaps = [max(row["two"]) - max(row["one"]) for row in found]
    mean = statistics.fmean(gaps)
    print(f"mean difference of mAP50 {mean:+.4f}, allowed {_WITHIN}")
    if len(ones) > 1:
        print(
            f"one worker under another seed: standard deviation {statistics.stdev(ones):.4f};"
            f" of the differences {statistics.stdev(gaps):.4f}"
        )
    return int(abs(mean) > _WITHIN)


def _kept(out: Path | None) -> list[dict[str, Any]]:
    if out is None or not out.exists():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _tell(row: Mapping[str, Any]) -> None:
    one, two = max(row["one"]), max(row["two"])
    print(
        f"seed {row['seed']}: best one {one:.4f}, two {two:.4f}: {two - one:+.4f};"
        f" last {row['one'][-1]:.4f}, {row['two'][-1]:.4f}",
        flush=True,
    )


def _pair(home: Path, seed: int, epochs: int, imgsz: int) -> dict[str, list[float]]:
    """The mAP50 of each epoch, of one worker and of two."""
    shared = {
        "model": str(DATA / "weights" / "yolov8n.pt"),
        "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
        "batch": 16,
        "epochs": epochs,
        "imgsz": imgsz,
        "seed": seed,
        "workers": 0,
        "optimizer": "AdamW",
        "lr0": 0.001,
    }
    config = {
        "cluster": {"emulate": ["3x RTX 3090"]},
        "runs": str(home / "runs"),
        "defaults": {**shared, "memory": {"predict": False}},
        "projects": [
            {"name": name, "resources": {"gpus": gpus}} for name, gpus in (("one", 1), ("two", 2))
        ],
    }
    file = home / "parity.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    words = [sys.executable, "-m", "orchestrator", "train", str(file), "--home", str(home)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the command itself
    with SqlStore(str(home / "orchestrator.db")) as store:
        return {
            status.project: [row.metrics[_MAP50] for row in store.progress(status.run_id)]
            for status in store.statuses()
        }


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
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--out", type=Path, help="a line of JSON a seed; goes on where it ended")
    given = parser.parse_args()
    if given.what == "parity":
        return parity(given.seeds, given.epochs, given.imgsz, given.out)
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
        return nodes(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
