"""Recommended settings for a card: each with its reason and how sure it is; pure rules."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.budget import Target
from orchestrator.plan.choose import Choice
from orchestrator.plan.correct import Confidence
from orchestrator.plan.job import precision_on
from orchestrator.types import Bytes, Finding, RunSpec

__all__ = ["Advice", "Machine", "recommend"]

_GIB = 1 << 30
_RAM_SHARE = 0.5  # of free memory: what the trainers allow a cache
_MOST_WORKERS = 8  # ultralytics' default; more help only where decoding is slower than that


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What surrounds the card: CPUs and free memory of the host for one run, and the system."""

    num_cpus: int
    free_ram_bytes: Bytes
    platform: str = "linux"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One setting. `key` is that of a config, or the name of an environment variable."""

    key: str
    value: str
    reason: str
    confidence: str


def recommend(
    target: Target,
    machine: Machine,
    *,
    spec: RunSpec | None = None,
    choice: Choice | None = None,
    num_images: int = 0,
    findings: Sequence[Finding] = (),
) -> Sequence[Advice]:
    """Settings for a card, and for a run on it where one is given.

    Args:
        target: The card.
        machine: The host around it.
        spec: The run.
        choice: How the run is cut on the card; None where it is not known.
        num_images: Pictures of training and validation; 0 where they are not known.
        findings: What earlier runs have measured that holds for this one on the card.
    """
    found = [*_cut(spec, choice), _precision(target, spec), _workers(machine)]
    if spec is not None and num_images:
        found.append(_cache(spec, machine, num_images))
    if spec is not None and spec.trainer == "timm" and _has_tensor_cores(target):
        found.append(
            Advice(
                key="channels_last",
                value="true",
                reason="convolutions on tensor cores work on NHWC",
                confidence=Confidence.TABLE.value,
            )
        )
    measured = {each.name: _measured(each) for each in findings}
    kept = [measured.pop(each.key, each) for each in found]
    return (*kept, *measured.values(), _allocator(target, machine))


def _measured(finding: Finding) -> Advice:
    value = str(finding.value).lower() if isinstance(finding.value, bool) else str(finding.value)
    reason = f"tried by an earlier run: {finding.told}"
    return Advice(
        key=finding.name, value=value, reason=reason, confidence=Confidence.MEASURED.value
    )


def _cut(spec: RunSpec | None, choice: Choice | None) -> list[Advice]:
    if spec is None or choice is None:
        return []
    batch = choice.batch
    need = f"{choice.need_bytes / _GIB:.2f} of {choice.budget_bytes / _GIB:.2f} GiB"
    cut = Advice(
        key="micro_batch",
        value=str(batch.micro_batch),
        reason=(
            f"the largest cut that fits: {need}"
            if choice.fits
            else f"the finest cut, and it does not fit: {need}"
        ),
        confidence=choice.correction.confidence.value,
    )
    kept = Advice(
        key="batch",
        value=str(batch.effective_batch),
        reason=f"as asked: the effective batch is trained exactly, in {batch.accumulation_steps}"
        " piece(s) a step",
        confidence=choice.correction.confidence.value,
    )
    return [kept, cut]


def _precision(target: Target, spec: RunSpec | None) -> Advice:
    trainer = spec.trainer if spec else "timm"
    chosen = precision_on(trainer, "auto", target)
    if target.is_emulated:
        reason = "an emulated card is a CPU, which gains nothing from half precision"
    elif chosen == "fp32":
        reason = f"{target.name} computes half precision no faster, or wrongly"
    else:
        is_known = target.architecture != "custom"
        whose = f"of {target.architecture}" if is_known else "that a card of this size likely has"
        reason = f"tensor cores {whose}; 20-30 % less memory than fp32"
        if chosen == "bf16":
            reason += "; bf16 has the range of fp32 and needs no loss scaling"
    return Advice(key="amp", value=chosen, reason=reason, confidence=Confidence.TABLE.value)


def _has_tensor_cores(target: Target) -> bool:
    return not target.is_emulated and (target.compute_capability or (8, 0)) >= (7, 0)


def _workers(machine: Machine) -> Advice:
    count = max(1, min(_MOST_WORKERS, machine.num_cpus - 1))
    return Advice(
        key="workers",
        value=str(count),
        reason=f"{machine.num_cpus} CPUs: one for the training itself, at most {_MOST_WORKERS}",
        confidence=Confidence.TABLE.value,
    )


def _cache(spec: RunSpec, machine: Machine, num_images: int) -> Advice:
    size = spec.settings.imgsz
    need = num_images * size * size * 3  # resized to imgsz, three bytes a pixel
    fits = need <= machine.free_ram_bytes * _RAM_SHARE
    told = f"{num_images} pictures of {size} px are {need / _GIB:.1f} GiB; free are"
    return Advice(
        key="cache",
        value="ram" if fits else "false",
        reason=f"{told} {machine.free_ram_bytes / _GIB:.1f} GiB, of which half may be used",
        confidence=Confidence.PREDICTED.value,
    )


def _allocator(target: Target, machine: Machine) -> Advice:
    has_segments = machine.platform == "linux" and not target.is_emulated
    return Advice(
        key="PYTORCH_ALLOC_CONF",
        value="expandable_segments:True" if has_segments else "",
        reason=(
            "what is reserved stays close to what is used when label counts vary;"
            " every worker is given it (replays of 100 steps: 12.0 GB without, 5.8 GB with)"
            if has_segments
            else "nothing to set: expandable segments are for CUDA on Linux"
        ),
        confidence=Confidence.PREDICTED.value if has_segments else Confidence.TABLE.value,
    )
