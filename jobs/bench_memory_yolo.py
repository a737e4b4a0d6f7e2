"""What ultralytics' logs and nvidia-smi showed of detectors, beside the prediction."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.memory_logs import AGAINST, Run, read_runs
from orchestrator.errors import OrchestratorError
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.replay import demand
from orchestrator.plan.footprint import Segments
from orchestrator.plan.overheads import overheads
from orchestrator.plan.workload import Labels, Workload
from orchestrator.types import Bytes

__all__ = ["Compared", "compare_yolo", "detector", "traced"]

GIB = 1 << 30
GB = 1_000_000_000
MOST_TRACES: Bytes = 2 << 30

PROFILES = (("yolov8s", "T4"), ("yolov8n", "RTX 4090"), ("yolov8n", "GTX 1080 Ti"))
GOALS = {"Ampere": (0.03, 0.08), "Turing": (0.06, None)}  # median and worst absolute error
FITTED = ("Turing",)


@dataclass(frozen=True, slots=True)
class Compared:
    """A run, what the replay alone reserves for it, and what was predicted for GPU_mem."""

    run: Run
    replayed: Bytes
    predicted: Bytes

    @property
    def error(self) -> float | None:
        """Of the prediction, as a share of what the log shows."""
        shown = self.run.reserved_bytes
        return None if shown is None else self.predicted / shown - 1


def compare_yolo(data: Path, traces: Path, *, only_counted: bool = False) -> None:
    """Print the prediction beside every figure that can be compared.

    GPU_mem is what torch's allocator has reserved. The reserve of the replay, with fixed segments
    as those runs had, gets the likely factor and constant of `overheads`, without the context.
    A step is replayed as it was for fitting those: optimizer step in each, no gradients kept from
    an earlier one. The runs did keep them, as they accumulate to 64 images: replayed so, errors
    move by 1 % or less, but for yolov8n with many labels (-5 %) and yolo11m at batch 2 (+4 %).

    The likely factor of `FITTED` architectures was changed after these rows had been seen. It was
    fitted on the half of them that `is_to_fit` and on runs that do not count: only the other half
    tells how good it is. With the factor before, 1.18, the seven runs on Turing had a median error
    of 9.6 % and a worst one of +18.4 %. On Ampere and Hopper the likely constant was left out, and
    workspaces replayed in its place, after these rows had been seen; no number was fitted to them.
    `jobs.bench_memory_workspace` tells how that does on each run that is left out of a fit.
    """
    kept = CachedPredictor(TraceCache(traces, most_bytes=MOST_TRACES), traced)
    runs = read_runs()
    print("GPU_mem at the end of epoch 1 in public logs: rows that count (rule: jobs.memory_logs).")
    print("The loss of old releases differs from the one replayed only where labels are dense.")
    compared = _print_runs(kept, [run for run in runs if not run.left_out])
    is_used = [one.run.architecture in FITTED and one.run.is_to_fit for one in compared]
    print("rows that no constant was fitted on:")
    _summary([one for one, used in zip(compared, is_used, strict=True) if not used])
    print(f"rows that the factor of {', '.join(FITTED)} was fitted on (a half, by a fixed hash):")
    _summary([one for one, used in zip(compared, is_used, strict=True) if used], has_goals=False)
    print("the half that is not to be fitted on, had the factor been fitted on the other half:")
    _halves(compared)
    _card_totals(kept, [run for run in runs if run.process_bytes])
    _smi(kept)
    _slopes(kept, data)
    if only_counted:
        return
    print("\nrows that do not count")
    for reason, words in AGAINST.items():
        print(f" {words}:")
        _print_runs(kept, [run for run in runs if run.left_out == reason])


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
        is_governed=False,
    )


def _print_runs(kept: CachedPredictor, runs: Iterable[Run]) -> list[Compared]:
    found = []
    for run in runs:
        try:
            one = _compare(kept, run)
        except OrchestratorError as error:
            print(
                f"  {run.card}, {run.workload.model}: not traced: {error}; {'; '.join(error.why)}"
            )
            continue
        found.append(one)
        print("  " + _line(one), flush=True)
    return found


def _compare(kept: CachedPredictor, run: Run) -> Compared:
    overhead = overheads(run.architecture)
    asked = demand(kept.trace(run.workload), run.batch, segments=Segments.FIXED)
    return Compared(
        run=run,
        replayed=asked.reserved_bytes + overhead.inside_bytes,
        predicted=overhead.likely_bytes(asked) - overhead.outside_bytes,
    )


def _line(one: Compared) -> str:
    run, asked = one.run, one.run.workload
    most = 0 if asked.labels is None else asked.labels.most
    shown, later = run.reserved_bytes, run.later_bytes
    logged = "-" if shown is None else f"{shown / GIB:.2f}"
    logged += "" if later is None else f" (later {later / GIB:.2f})"
    error = "" if one.error is None else f" {one.error:+.1%}"
    remarks = [run.remark] if run.remark else []
    if not run.left_out and run.is_to_fit:
        remarks.append("half to fit")
    return (
        f"{run.architecture:9} {run.card:20} {run.release:8} {asked.model.removesuffix('.yaml'):11}"
        f" {asked.imgsz} b{run.batch:<2} M {most:<3} logged {logged}, replay"
        f" {one.replayed / GIB:.2f}, predicted {one.predicted / GIB:.2f} GiB{error}"
        + "".join(f"; {remark}" for remark in remarks)
    )


def _summary(compared: Sequence[Compared], words: str = "", *, has_goals: bool = True) -> None:
    errors: dict[str, list[float]] = {}
    for one in compared:
        if one.error is not None:
            errors.setdefault(one.run.architecture, []).append(one.error)
    for architecture, found in errors.items():
        middle, worst = statistics.median(map(abs, found)), max(found, key=abs)
        print(
            f"  {architecture}{words}: {len(found)} runs, median absolute error {middle:.1%},"
            f" worst {worst:+.1%}, median {statistics.median(found):+.1%}"
            + (_goal(architecture, middle, worst) if has_goals else "")
        )


def _goal(architecture: str, middle: float, worst: float) -> str:
    goals = zip(("median", "worst"), (middle, worst), GOALS.get(architecture, ()), strict=False)
    words = [
        f"{name} {'met' if abs(value) <= most else 'MISSED'} ({most:.0%})"
        for name, value, most in goals
        if most is not None
    ]
    return f"; goals: {', '.join(words)}" if words else "; no goal"


def _halves(compared: Sequence[Compared]) -> None:
    """The factor that one half of the rows asks for, and how the other half then does."""
    for architecture in dict.fromkeys(one.run.architecture for one in compared):
        mine = [one for one in compared if one.run.architecture == architecture]
        constant = overheads(architecture).likely_constant_bytes
        factor = statistics.median(_asked_factor(o, constant) for o in mine if o.run.is_to_fit)
        others = [
            replace(one, predicted=round(factor * one.replayed) + constant)
            for one in mine
            if not one.run.is_to_fit
        ]
        _summary(others, f", factor {factor:.3f}", has_goals=False)


def _asked_factor(one: Compared, constant: Bytes) -> float:
    return ((one.run.reserved_bytes or 0) - constant) / one.replayed


def _card_totals(kept: CachedPredictor, runs: Iterable[Run]) -> None:
    print("\nnvidia-smi of the process (Hopper's context is from the second of these runs)")
    for run in runs:
        found = overheads(run.architecture)
        asked = demand(kept.trace(run.workload), run.batch, segments=Segments.FIXED)
        likely, shown = found.likely_bytes(asked), run.process_bytes or 0
        print(
            f"  {run.card}, {run.release}, {run.workload.model} batch {run.batch}: shown"
            f" {shown / GIB:.2f} GiB, predicted {likely / GIB:.2f} ({likely / shown - 1:+.1%})"
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


def _slopes(kept: CachedPredictor, data: Path) -> None:
    """Bytes per image between batches 8 and 16: free of every constant, and of the loss's share.

    AutoBatch's profile is a forward and backward alone, without loss, optimizer or EMA.
    """
    print("\nbytes per image, AutoBatch's own profile (no loss) and the prediction (with loss of")
    print("one label); nothing was fitted to the slopes, but the T4 and 1080 Ti rows led to larger")
    print("factors for cards before Ampere")
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
