"""Traces every architecture that the installed ultralytics describes, and names what it cannot.

    python -m jobs.sweep_yolo [--scales nx] [--cut] [--only PATTERN]

One line an architecture: events, and the peak of live bytes at the two traced batches; or the
error. Architectures that the trainer refuses, because they need another trainer of ultralytics
(text prompts, transformers with their own loss), are refused here in the same words.
"""

import argparse
import fnmatch
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.sweep_timm import row_of
from orchestrator.errors import OrchestratorError
from orchestrator.memory.facts import task_of
from orchestrator.memory.process import trace_all
from orchestrator.plan.workload import Labels, Workload

__all__ = ["architectures", "main"]

_CHUNK = 8  # architectures of one process
_LABELS = Labels(most=60, mean=15.0)


def architectures(scales: str) -> Iterator[str]:
    """Names as a config has them; of an architecture with scales, one name for each of these."""
    import ultralytics
    import yaml

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    for path in sorted(folder.rglob("*.yaml")):
        known = yaml.safe_load(path.read_text(encoding="utf-8")).get("scales")
        # yolov10n.yaml, rtdetr-l.yaml: the name says the scale
        if not known or re.search(r"v\d+[a-z]$|^rtdetr-", path.stem):
            yield path.name
            continue
        stem, dash, rest = path.stem.partition("-")
        if stem == "yoloe":  # yoloe-11-seg: the scale follows the number
            number, dash, rest = rest.partition("-")
            stem = f"{stem}-{number}"
        for scale in scales:
            if scale in known:
                yield f"{stem}{scale}{dash}{rest}.yaml"


def _workload(name: str, *, is_cut: bool) -> Workload:
    task = task_of(name)
    return Workload(
        trainer="yolo",
        model=name,
        imgsz=224 if task == "classify" else 640,
        num_classes=1000 if task == "classify" else 80,
        task=task,
        is_cut=is_cut,
        is_channels_last=True,
        labels=None if task == "classify" else _LABELS,
    )


def main() -> int:
    """Trace and report; returns 0, as an architecture that cannot be traced is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scales", default="nx", help="letters, of architectures that have scales")
    parser.add_argument("--cut", action="store_true", help="as steps of two pieces")
    parser.add_argument("--only", default="*", help="pattern of names")
    given = parser.parse_args()
    names = [n for n in architectures(given.scales) if fnmatch.fnmatch(n, given.only)]
    refused: list[tuple[str, OrchestratorError]] = []
    for begin in range(0, len(names), _CHUNK):
        refused += _chunk(names[begin : begin + _CHUNK], is_cut=given.cut)
    print(f"{len(names) - len(refused)} of {len(names)} architectures are traced; not:")
    for name, error in refused:
        print(f"  {name:28} {error.code} {error.what}; {'; '.join(error.why)}")
    return 0


def _chunk(names: Sequence[str], *, is_cut: bool) -> list[tuple[str, OrchestratorError]]:
    found = trace_all([_workload(name, is_cut=is_cut) for name in names])
    refused: list[tuple[str, OrchestratorError]] = []
    for name, one in zip(names, found, strict=True):
        if isinstance(one, OrchestratorError):
            refused.append((name, one))
            print(f"{name:28} {one.code}", flush=True)
            continue
        row = row_of(name, 0, one, 0.0)
        peaks = ", ".join(f"{peak / (1 << 20):.0f} MiB" for peak in row["peak_bytes"])
        print(f"{name:28} {row['events']} events, peaks {peaks}", flush=True)
    return refused


if __name__ == "__main__":
    sys.exit(main())
