"""The prediction of memory against figures that others have measured and published."""

import argparse
import sys
from pathlib import Path

from jobs.bench_memory_seeds import compare_seeds
from jobs.bench_memory_timm import compare_timm
from jobs.bench_memory_yolo import compare_yolo
from jobs.yolo_link import DATA

__all__ = ["main"]


def main() -> int:
    """Run the comparisons that were asked for, by default all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm", action="store_true", help="timm's table of an RTX 3090")
    parser.add_argument("--all", action="store_true", help="every row of it, not 100")
    parser.add_argument("--sample", type=int, default=100, help="rows of it, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", type=Path, help="file of jobs.sweep_timm to add the models to")
    parser.add_argument("--yolo", action="store_true", help="GPU_mem of ultralytics' logs")
    parser.add_argument("--counted", action="store_true", help="of those logs, only what counts")
    parser.add_argument("--seeds", action="store_true", help="tables by rule of thumb")
    parser.add_argument("--traces", type=Path, default=Path("build/memory_traces"))
    chosen = parser.parse_args()
    if not (DATA / "gpu_bench").is_dir():
        print(f"no published figures in {DATA}: set ORC_TEST_DATA", file=sys.stderr)
        return 1
    is_everything = not (chosen.timm or chosen.yolo or chosen.seeds)
    if chosen.yolo or is_everything:
        compare_yolo(DATA, chosen.traces, only_counted=chosen.counted)
    if chosen.seeds or is_everything:
        compare_seeds(chosen.traces)
    if chosen.timm or is_everything:
        compare_timm(
            DATA,
            chosen.traces,
            take_all=chosen.all,
            sample=chosen.sample,
            seed=chosen.seed,
            sweep=chosen.sweep,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
