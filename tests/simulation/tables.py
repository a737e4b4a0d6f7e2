"""Small tables made by hand: one application of two epochs whose step times are simple sums."""

import os
from pathlib import Path

import pytest

__all__ = ["REAL", "ROOT", "needs_real_tables", "step_seconds", "write_tables"]

ROOT = Path(__file__).resolve().parents[2]
_DATA = Path(os.environ.get("ORC_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = _DATA / "traces" / "pollux"
needs_real_tables = pytest.mark.skipif(
    not (REAL / "apps").is_dir(),
    reason=f"{REAL} is not here; ORC_TEST_DATA names the folder of test data",
)

_SHAPES = ("1", "2", "3", "4", "11", "12", "22", "24", "34", "44")
_LOCAL = (4, 8, 16)


def step_seconds(num_nodes: int, num_gpus: int, local: int) -> tuple[float, float]:
    """Seconds of a step and of its synchronization: linear in all three."""
    sync = 0.05 * (num_nodes - 1) + 0.01 * (num_gpus - 1)
    return 0.1 + 0.02 * local + sync, sync


def write_tables(folder: Path) -> Path:
    """Application `bert`, four jobs of it, and one published result."""
    app = folder / "apps" / "bert"
    app.mkdir(parents=True)
    rows = ["placement,local_bsz,step_time,sync_time"]
    for shape in _SHAPES:
        for local in _LOCAL:
            step, sync = step_seconds(len(shape), sum(map(int, shape)), local)
            rows.append(f"{shape},{local},{step},{sync}")
    (app / "placements.csv").write_text("\n".join(rows) + "\n")
    rows = ["num_nodes,num_replicas,local_bsz,step_time,sync_time"]
    for nodes, gpus in ((6, 6), (6, 24), (16, 16), (16, 64)):
        for local in _LOCAL:
            step, sync = step_seconds(nodes, gpus, local)
            rows.append(f"{nodes},{gpus},{local},{step},{sync}")
    (app / "scalability.csv").write_text("\n".join(rows) + "\n")
    for batch, steps in ((16, 1000), (64, 400)):
        (app / f"validation-{batch}.csv").write_text(
            "progress,iteration,metric,grad_sqr,grad_var\n"
            f"1000.0,{steps},1.0,1.0,3.0\n"
            f"{2000.0 + batch},{2 * steps},0.5,0.5,{2.0 + batch / 16}\n"
        )
    (folder / "workloads.csv").write_text(
        "set,workload,job,submit_s,app,num_gpus,batch_size\n"
        "small,1,bert-0,10,bert,2,32\n"
        "small,1,bert-1,70,bert,4,64\n"
        "small,1,bert-2,80,bert,1,16\n"
        "small,1,bert-3,400,bert,4,64\n"
    )
    (folder / "published_results.csv").write_text(
        "experiment,run,workload,jobs,avg_jct_s,p50_jct_s,p99_jct_s,makespan_s\n"
        "jobload,tiresias-1.0,workload-1,4,500.0,400,900,\n"
    )
    return folder
