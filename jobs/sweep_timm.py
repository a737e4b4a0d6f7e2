"""Traces every model of timm at its default size, and lists those that cannot be traced.

    python -m jobs.sweep_timm --out traces.jsonl --workers 2 [--sample 40 --seed 0] [--only PATTERN]

One line of JSON a model: name, image size, events, the peak of live bytes at the two traced
batches, seconds, or the error. A run that was broken off goes on where it stopped, and leaves out
what another process has added to the file in the meantime: `bench_memory_public --timm --sweep`
adds the models that it traces.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.memory.events import Birth, StepTrace
from orchestrator.memory.process import trace_all
from orchestrator.plan.workload import Workload
from orchestrator.types import Bytes

__all__ = ["known_rows", "main", "row_of"]

_CHUNK = 8  # models of one process: a death takes the rest of the chunk with it, which is repeated
_SECONDS = 240.0  # of one model


def _sizes(pattern: str) -> list[tuple[str, int]]:
    """Names and image sizes of timm's models."""
    import timm

    found: list[tuple[str, int]] = []
    for name in timm.list_models(pattern):
        config = timm.models.get_pretrained_cfg(name)
        size = config.input_size[-1] if config is not None and config.input_size else 224
        found.append((name, int(size)))
    return found


def _peak(trace: StepTrace) -> Bytes:
    sizes: dict[int, Bytes] = {}
    live = peak = 0
    for event in trace.events:
        if isinstance(event, Birth):
            sizes[event.storage] = -(-event.num_bytes // 512) * 512
            live += sizes[event.storage]
            peak = max(peak, live)
        else:
            live -= sizes.pop(event)
    return peak


def row_of(name: str, size: int, found: Any, seconds: float) -> dict[str, Any]:
    """What a trace, or the error in its place, says of a model."""
    row: dict[str, Any] = {"model": name, "imgsz": size, "seconds": round(seconds, 1)}
    if isinstance(found, OrchestratorError):
        return row | {"error": found.code, "why": list(found.why)}
    first, second = found
    return row | {
        "events": len(first.events),
        "batches": [first.batch, second.batch],
        "peak_bytes": [_peak(first), _peak(second)],
    }


def _traced(models: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Rows of a chunk; what a dead process did not come to is traced alone."""
    if not models:
        return []
    begin = time.perf_counter()
    workloads = [
        Workload(trainer="timm", model=name, imgsz=size, num_classes=1000) for name, size in models
    ]
    found = trace_all(workloads, timeout=_SECONDS)
    seconds = (time.perf_counter() - begin) / len(models)
    rows: list[dict[str, Any]] = []
    for (name, size), one in zip(models, found, strict=True):
        is_dead = isinstance(one, OrchestratorError) and one.code == "E2132"
        if is_dead and len(models) > 1:
            rows += _traced([(name, size)])
        else:
            rows.append(row_of(name, size, one, seconds))
    return rows


def _chunks(models: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    for begin in range(0, len(models), _CHUNK):
        yield models[begin : begin + _CHUNK]


def known_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's file; none where there is no file yet."""
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def _unknown(models: list[tuple[str, int]], out: Path) -> list[tuple[str, int]]:
    """Those that the file has no row of by now."""
    known = {row["model"] for row in known_rows(out)}
    return [model for model in models if model[0] not in known]


def main() -> int:
    """Sweep, and report; returns 0, as a model that cannot be traced is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--sample", type=int, default=0, help="so many models by chance; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", default="*", help="pattern of names")
    given = parser.parse_args()
    models = _sizes(given.only)
    if given.sample:
        models = random.Random(given.seed).sample(models, min(given.sample, len(models)))
    done = {row["model"] for row in known_rows(given.out)}
    left = [model for model in models if model[0] not in done]
    print(f"{len(models)} models, {len(models) - len(left)} of them known", flush=True)
    with ThreadPoolExecutor(given.workers) as pool, given.out.open("a", encoding="utf-8") as file:
        for rows in pool.map(lambda chunk: _traced(_unknown(chunk, given.out)), _chunks(left)):
            for row in rows:
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(row["model"], row.get("error", f"{row['seconds']} s"), flush=True)
    chosen = {name for name, _ in models}
    rows = [row for row in known_rows(given.out) if row["model"] in chosen]
    failed = [row for row in rows if "error" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} models are traced; not:")
    for row in failed:
        print(f"  {row['model']:40} {row['error']} {'; '.join(row['why'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
