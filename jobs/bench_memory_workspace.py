"""Whether cuDNN's copies, replayed, explain GPU_mem better than a constant: a run left out each."""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jobs.bench_memory_yolo import MOST_TRACES, traced
from jobs.memory_logs import Run, read_runs
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand
from orchestrator.plan.footprint import Segments
from orchestrator.plan.overheads import overheads
from orchestrator.types import Bytes

__all__ = ["Replayed", "left_out", "main", "without_scratch"]

GIB = 1 << 30
# What says nothing about a step of known size on a card with room. Runs that the factor was fitted
# on do count here: the factor is fitted anew, on the runs that are not left out.
USELESS = ("altered", "dense", "doubtful", "late", "limit", "rect")
PROBED = "AutoBatch"  # in the remark: blocks of its probe may have been kept
GROUPS: Mapping[str, Sequence[str]] = {
    "Ampere": ("Ampere",),
    "Ada": ("Ada",),
    "Blackwell": ("Blackwell",),
    "these three": ("Ampere", "Ada", "Blackwell"),
    "Turing": ("Turing",),
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run, and what the replay reserves for it with and without the copies, cuBLAS included."""

    run: Run
    shown: Bytes
    plain: Bytes
    copied: Bytes


def main() -> int:
    """Replay every row twice, and print errors by generation of cards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, default=Path("build/memory_traces"))
    kept = CachedPredictor(TraceCache(parser.parse_args().traces, most_bytes=MOST_TRACES), traced)
    found = [
        _replay(kept, run) for run in read_runs() if run.left_out not in USELESS
        if run.reserved_bytes is not None
    ]  # fmt: skip
    for one in found:
        print(
            f"  {one.run.architecture:9} {one.run.card:20} {one.run.workload.model:17}"
            f" {one.run.workload.imgsz} b{one.run.batch:<2} shown {one.shown / GIB:.2f}, replayed"
            f" {one.plain / GIB:.2f}, with copies {one.copied / GIB:.2f} GiB {one.run.remark}"
        )
    print("errors of a run where the factor is the median of what the other runs ask for")
    for name, architectures in GROUPS.items():
        rows = [one for one in found if one.run.architecture in architectures]
        _print_group(name, rows)
        clean = [one for one in rows if PROBED not in one.run.remark]
        if len(clean) < len(rows):
            _print_group(f"{name}, no probe before", clean)
    return 0


def without_scratch(trace: LinearTrace) -> LinearTrace:
    """The same step with nothing lent to kernels (but the smallest block)."""
    is_scratch = np.array(trace.is_scratch, bool)
    low, high = (np.where(is_scratch, 0, each) for each in (trace.low, trace.high))
    return replace(trace, low=low, high=high)


def left_out(shown: Sequence[float], replayed: Sequence[float], constant: float) -> list[float]:
    """The error of each run, as a share, with the factor that all others have in the middle."""
    errors = []
    for number, (one, base) in enumerate(zip(shown, replayed, strict=True)):
        others = [
            (each - constant) / other
            for at, (each, other) in enumerate(zip(shown, replayed, strict=True))
            if at != number
        ]
        errors.append((statistics.median(others) * base + constant) / one - 1)
    return errors


def _replay(kept: CachedPredictor, run: Run) -> Replayed:
    trace = kept.trace(replace(run.workload, has_flash_attention=True))
    inside = overheads(run.architecture).inside_bytes
    plain, copied = (
        demand(each, run.batch, segments=Segments.FIXED).reserved_bytes + inside
        for each in (without_scratch(trace), trace)
    )
    return Replayed(run, run.reserved_bytes or 0, plain, copied)


def _print_group(name: str, rows: Sequence[Replayed]) -> None:
    shown = [float(one.shown) for one in rows]
    plain, copied = ([float(v) for v in each] for each in (
        [one.plain for one in rows], [one.copied for one in rows]
    ))  # fmt: skip
    print(f"{name}: {len(rows)} runs")
    for words, replayed, constant in (
        ("no copies, 0.10 GiB", plain, 0.10 * GIB),
        ("copies, 0.10 GiB", copied, 0.10 * GIB),
        ("copies, no constant", copied, 0.0),
    ):
        errors = left_out(shown, replayed, constant)
        squares = statistics.fmean(error**2 for error in errors) ** 0.5
        factor = statistics.median((s - constant) / r for s, r in zip(shown, replayed, strict=True))
        print(
            f"  {words:20} factor {factor:.3f}, median {statistics.median(map(abs, errors)):.1%},"
            f" mean {statistics.fmean(map(abs, errors)):.1%}, root mean square {squares:.1%},"
            f" worst {max(errors, key=abs):+.1%}"
        )


if __name__ == "__main__":
    sys.exit(main())
