"""Gangs on a cluster: one worker against two, and twelve projects while nodes come and go.

`python -m jobs.bench_cluster parity` trains the same YOLO model with one worker and with two at the
same effective batch; `nodes` is the drill. Exits 1 where the one or the other is not as promised.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from jobs.cluster_drill import drill_nodes
from jobs.yolo_link import DATA
from orchestrator.store.sql import SqlStore

_MAP50 = "metrics/mAP50(B)"
_WITHIN = 0.02  # mAP50, the mean over the seeds
_RESTART_SECONDS = 15.0


def parity(home: Path, seeds: list[int], epochs: int, imgsz: int) -> int:
    """Print the best mAP50 of one worker and of two, by seed."""
    projects = [
        {"name": f"{name}-{seed}", "seed": seed, "resources": {"gpus": gpus}}
        for seed in seeds
        for name, gpus in (("one", 1), ("two", 2))
    ]
    shared = {
        "model": str(DATA / "weights" / "yolov8n.pt"),
        "data": str(DATA / "det_bccd_tiny" / "data.yaml"),
        "batch": 16,
        "epochs": epochs,
        "imgsz": imgsz,
        "workers": 0,
        "optimizer": "AdamW",
        "lr0": 0.001,
    }
    config = {
        "cluster": {"emulate": ["3x RTX 3090"]},
        "runs": str(home / "runs"),
        "defaults": {**shared, "memory": {"predict": False}},
        "projects": projects,
    }
    file = home / "parity.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    words = [sys.executable, "-m", "orchestrator", "train", str(file), "--home", str(home)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - the command itself
    best: dict[str, float] = {}
    with SqlStore(str(home / "orchestrator.db")) as store:
        for status in store.statuses():
            rows = store.progress(status.run_id)
            best[status.project] = max(row.metrics[_MAP50] for row in rows)
    gaps = [best[f"two-{seed}"] - best[f"one-{seed}"] for seed in seeds]
    for seed, gap in zip(seeds, gaps, strict=True):
        print(
            f"seed {seed}: one {best[f'one-{seed}']:.4f}, two {best[f'two-{seed}']:.4f}: {gap:+.4f}"
        )
    mean = sum(gaps) / len(gaps)
    print(f"mean difference of mAP50 {mean:+.4f}, allowed {_WITHIN}")
    return int(abs(mean) > _WITHIN)


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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orc-bench-") as folder:
        home = Path(folder)
        if given.what == "nodes":
            return nodes(home)
        return parity(home, given.seeds, given.epochs, given.imgsz)


if __name__ == "__main__":
    sys.exit(main())
