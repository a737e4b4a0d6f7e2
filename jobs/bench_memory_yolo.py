"""What ultralytics' logs and nvidia-smi showed of detectors, beside the prediction."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand
from orchestrator.plan.footprint import Segments
from orchestrator.plan.overheads import overheads
from orchestrator.plan.workload import Labels, Workload

__all__ = ["Log", "compare_yolo", "detector", "traced"]

GIB = 1 << 30
GB = 1_000_000_000  # GPU_mem is in this unit up to 8.3.74, in GiB from 8.4.190 on


@dataclass(frozen=True, slots=True)
class Log:
    """GPU_mem of a public run, in later epochs; label counts were not published."""

    model: str
    batch: int
    num_classes: int
    labels: Labels
    card: str
    architecture: str
    release: str
    bytes: float


# Of the 14 runs on which the factor and the constant of `overheads` were fitted, these were
# published with the project's notes.
LOGS = (
    Log("yolo11s", 8, 3, Labels(most=5, mean=1.0), "RTX 3090", "Ampere", "8.3.74", 2.34 * GB),
    Log("yolov8m", 16, 7, Labels(most=24, mean=5.0), "RTX 3060", "Ampere", "8.0.170", 6.65 * GB),
    Log("yolov8l", 16, 48, Labels(most=6, mean=1.5), "T4", "Turing", "8.2.5", 11.0 * GB),
)
PROFILES = (("yolov8s", "T4"), ("yolov8n", "RTX 4090"), ("yolov8n", "GTX 1080 Ti"))


def compare_yolo(data: Path, traces: Path) -> None:
    """Print the prediction beside every figure that can be compared."""
    kept = CachedPredictor(TraceCache(traces), traced)
    _smi(kept)
    print("\nGPU_mem of later epochs (the factor and the constant were fitted on these rows, among")
    print("others, so this shows that they are applied as they were fitted, not that they hold)")
    errors: dict[str, list[float]] = {}
    for log in LOGS:
        errors.setdefault(log.architecture, []).append(_log(kept, log))
    for architecture, found in errors.items():
        middle, worst = statistics.median(map(abs, found)), max(map(abs, found))
        print(f"  {architecture}: {len(found)} runs, median {middle:.1%}, worst {worst:.1%}")
    _slopes(kept, data)


def traced(workload: Workload) -> LinearTrace:
    """Trace in this process, which does nothing else."""
    from orchestrator.memory.trace import trace_pair

    return LinearTrace.of(*trace_pair(workload))


def detector(
    model: str,
    *,
    num_classes: int = 80,
    labels: Labels,
    imgsz: int = 640,
    is_channels_last: bool = False,
) -> Workload:
    """A detector as ultralytics trains it: AMP in fp16, AdamW, EMA."""
    return Workload(
        trainer="yolo",
        model=f"{model}.yaml",
        imgsz=imgsz,
        num_classes=num_classes,
        task="detect",
        is_channels_last=is_channels_last,
        labels=labels,
    )


def _smi(kept: CachedPredictor) -> None:
    """yolo11l, batch 16, on an RTX 4080 SUPER: nvidia-smi was read, no constant was fitted on it.

    Which label counts it had is not known; COCO's, after mosaic, reach about 60 to 100.
    """
    print("yolo11l 640 AMP AdamW on an RTX 4080 SUPER: 11.4 to 11.8 'GB' by nvidia-smi")
    found = overheads("Ada")
    seen: dict[int, float] = {}
    for most, batch in ((100, 16), (60, 16), (60, 32)):
        labels = Labels(most=most, mean=most / 4)
        trace = kept.trace(detector("yolo11l", labels=labels, is_channels_last=True))
        likely = found.likely_bytes(demand(trace, batch, segments=Segments.FIXED))
        seen[batch] = likely
        mib = likely / (1 << 20)
        against = " ('18 GB' in the same table; the card has 16)"
        if batch == 16:
            as_gib, as_mib = likely / GIB / 11.6 - 1, mib / 11600 - 1
            against = f": {as_gib:+.1%} of 11.6 GiB, {as_mib:+.1%} of 11600 MiB"
        print(
            f"  batch {batch}, up to {most} labels: {likely / GIB:.2f} GiB, {mib:.0f} MiB{against}"
        )
    each = (seen[32] - seen[16]) / 16 / GB
    print(f"  per image: {each:.2f} GB; two public logs of yolo11l give 0.63 GB")


def _log(kept: CachedPredictor, log: Log) -> float:
    workload = detector(log.model, num_classes=log.num_classes, labels=log.labels)
    found = overheads(log.architecture)
    asked = demand(kept.trace(workload), log.batch, segments=Segments.FIXED)
    predicted = found.likely_bytes(asked) - found.outside_bytes  # GPU_mem has no context
    error = predicted / log.bytes - 1
    print(
        f"  {log.card}, ultralytics {log.release}, {log.model} batch {log.batch}: logged"
        f" {log.bytes / GB:.2f} GB, predicted {predicted / GB:.2f} GB ({error:+.1%})"
    )
    return error


def _slopes(kept: CachedPredictor, data: Path) -> None:
    """Bytes per image between batches 8 and 16: free of every constant, and of the loss's share.

    AutoBatch's profile is a forward and backward alone, without loss, optimizer or EMA.
    """
    print("\nbytes per image, AutoBatch's own profile (no loss) and the prediction (with loss of")
    print("one label); nothing was fitted to the slopes, but the T4 and 1080 Ti rows led to the")
    print("larger factor for cards before Ampere")
    with (data / "gpu_bench" / "yolo_autobatch_memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    for model, card in PROFILES:
        mine = [r for r in rows if r["model"].split()[0] == model and card in r["gpu"]]
        measured = {int(r["batch"]): float(r["gpu_mem_profile_gb"]) * GB for r in mine}
        imgsz = int(mine[0]["imgsz"])
        workload = detector(model, labels=Labels(most=1, mean=1), imgsz=imgsz)
        trace = kept.trace(workload)
        print(
            f"  {card}, {model} {imgsz}: measured {_per_image(measured) / 1e6:.0f} MB, replayed"
            f" {(trace.allocated_peak(16) - trace.allocated_peak(8)) / 8e6:.0f} MB"
        )


def _per_image(measured: dict[int, float]) -> float:
    batches: Sequence[int] = sorted(measured)[-2:]
    return (measured[batches[1]] - measured[batches[0]]) / (batches[1] - batches[0])
