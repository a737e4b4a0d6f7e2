"""What to give up, in which order, when a run does not fit: rungs, what they cost, what they do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.messages import GivenUp
from orchestrator.plan.budget import Target
from orchestrator.plan.sharded import KEY, WHOLE, place_of, sharded
from orchestrator.plan.workload import OptimizerState, Workload
from orchestrator.types import Bytes, RunSpec, TrainSettings

__all__ = [
    "CARRIED_OUT",
    "COSTS",
    "DEFAULT_LADDER",
    "NO_NORM",
    "REFUSALS",
    "Cost",
    "Rung",
    "by_cost",
    "carried_out",
    "climbed",
    "settings_after",
    "size_below",
    "smaller_model",
    "spec_after",
]


class Rung(StrEnum):
    """Something that is given up so that a run fits. The texts are those of the config."""

    CUT = "cut"  # the step runs in micro-batches; the effective batch stays
    AMP = "amp"  # half precision instead of fp32
    CHECKPOINTING = "checkpointing"  # activations are computed twice instead of kept
    OPTIMIZER_8BIT = "optimizer_8bit"
    OPTIMIZER_HOST = "optimizer_host"  # its state lies in the host's memory
    SHARD = "shard"  # the ranks of a gang keep a part of weights and optimizer state each
    IMGSZ = "imgsz"  # smaller pictures: another experiment, so only where it is allowed
    MODEL = "model"  # a smaller model: only ever suggested


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a rung does to the time of a step (1.0: nothing), what else it does, and who says so."""

    slowdown: float
    effect: str
    source: str


COSTS: Mapping[Rung, Cost] = {
    Rung.CUT: Cost(
        slowdown=1.13,
        effect="BatchNorm sees the micro-batch",
        source="10-15 % slower, as teams that accumulate gradients report; not measured here",
    ),
    Rung.AMP: Cost(
        slowdown=0.71,
        effect="products in half precision",
        source="1.3-1.5 times as fast on tensor cores (NVIDIA, mixed precision training guide);"
        " not measured here, for want of a GPU",
    ),
    Rung.CHECKPOINTING: Cost(
        slowdown=1.30,
        effect="none: the same numbers are computed twice",
        source="one more forward pass, about 30 % (Chen et al. 2016, arXiv 1604.06174, section 5);"
        " `jobs.bench_rungs` on a CPU: 1.26 and 1.27 of the CPU time (convnext_atto, resnet18)",
    ),
    Rung.OPTIMIZER_8BIT: Cost(
        slowdown=1.0,
        effect="optimizer state rounded to 8 bits in blocks",
        source="no slower than 32 bits (Dettmers et al. 2022, arXiv 2110.02861, table 5); not"
        " measured here, for want of a GPU",
    ),
    Rung.OPTIMIZER_HOST: Cost(
        slowdown=1.2,
        effect="none: the same numbers, copied over PCIe in every step",
        source="an estimate: state once each way at 25 GB/s beside steps of 0.1 to 1 s;"
        " `jobs.bench_rungs` on a CPU, whose copies cross no bus: 1.09 of the CPU time",
    ),
    Rung.SHARD: Cost(
        slowdown=1.25,
        effect="none: the same numbers; ranks send half as much again, and cannot repeat a step",
        source="an estimate: weights are gathered twice and gradients summed once, 3 model sizes a"
        " step for 2 (Rajbhandari et al. 2020, arXiv 1910.02054, section 7); not measured on cards",
    ),
    Rung.IMGSZ: Cost(
        slowdown=0.7,
        effect="smaller pictures: another experiment",
        source="arithmetic: computing falls with the square of the size; a step is about a fifth",
    ),
    Rung.MODEL: Cost(
        slowdown=0.6,
        effect="a smaller model: another experiment",
        source="an estimate: the scales of one YOLO family differ by about 1.6 in computing",
    ),
}

DEFAULT_LADDER = (
    Rung.CUT,
    Rung.AMP,
    Rung.CHECKPOINTING,
    Rung.OPTIMIZER_8BIT,
    Rung.OPTIMIZER_HOST,
    Rung.SHARD,
)
"""The order of rungs unless the config says another. Image size must be allowed by name."""

CARRIED_OUT = frozenset(Rung) - {Rung.MODEL}
"""What trainers can do; a plan for training uses no other rung. 8 bits need bitsandbytes."""

NO_NORM = "none: the pieces add up to the whole batch, and the model has no BatchNorm"
"""What `Rung.CUT` does to a model whose layers see one sample at a time."""

_TRAINERS = ("yolo", "timm")

REFUSALS: Mapping[str, Rung] = {
    "E1122": Rung.CHECKPOINTING,
    "E1123": Rung.OPTIMIZER_HOST,
    "E1124": Rung.OPTIMIZER_8BIT,
}
"""Codes of errors that say: this model or optimizer has no such rung. It is then passed over."""

_OF_STATE = (Rung.OPTIMIZER_8BIT, Rung.OPTIMIZER_HOST, Rung.SHARD)
_SIZE_STEP = 32  # the stride of a YOLO network, and a divisor of every patch that is common
_SCALES = "nsmlx"


def climbed(
    rung: Rung, workload: Workload, target: Target, *, least_imgsz: int | None = None
) -> Iterable[Workload]:
    """What a rung makes of a workload, the mildest first; nothing where it changes nothing.

    `Rung.CUT` and `Rung.MODEL` change no workload here: the cut is the choice of a micro-batch,
    and another model is never taken without a person.
    """
    if rung is Rung.AMP and workload.precision == "fp32" and not target.is_emulated:
        major = target.compute_capability[0] if target.compute_capability else 8
        if major >= 7:
            half = "bf16" if workload.trainer == "timm" and major >= 8 else "fp16"
            yield replace(workload, precision=half)
    elif rung is Rung.CHECKPOINTING and not workload.is_checkpointed:
        yield replace(workload, is_checkpointed=True)
    elif rung in _OF_STATE and place_of(workload) == WHOLE:
        yield from _with_state_elsewhere(rung, workload, target)
    elif rung is Rung.IMGSZ and least_imgsz is not None:
        size = workload.imgsz
        while (size := size_below(size)) >= least_imgsz:
            yield replace(workload, imgsz=size)


def _with_state_elsewhere(rung: Rung, workload: Workload, target: Target) -> Iterable[Workload]:
    if rung is Rung.SHARD and workload.world_size > 1:
        yield sharded(workload, "card")
        if not target.is_emulated:  # its memory and its host's are one
            yield sharded(workload, "host")
    elif rung is Rung.OPTIMIZER_HOST and workload.optimizer_state is not OptimizerState.HOST:
        yield replace(workload, optimizer_state=OptimizerState.HOST)
    elif (
        rung is Rung.OPTIMIZER_8BIT
        and workload.optimizer_state is OptimizerState.CARD
        and not target.is_emulated  # bitsandbytes computes on GPUs alone
    ):
        yield replace(workload, optimizer_state=OptimizerState.EIGHT_BIT)


def carried_out(trainer: str) -> frozenset[Rung]:
    """The rungs that a trainer can take; none for one that trains no model."""
    return CARRIED_OUT if trainer in _TRAINERS else frozenset()


def settings_after(settings: TrainSettings, given_up: Iterable[GivenUp]) -> TrainSettings:
    """A run's settings with the rungs that were taken while it trained.

    Raises:
        ValueError: A rung that has no setting.
    """
    for given in given_up:
        rung, options = Rung(given.rung), dict(settings.options)
        if rung is Rung.AMP:
            settings = replace(settings, amp=given.setting)
        elif rung is Rung.IMGSZ:
            settings = replace(settings, imgsz=int(given.setting))
        elif rung is Rung.CHECKPOINTING:
            settings = replace(settings, options=options | {"grad_checkpointing": True})
        elif rung is Rung.SHARD:
            settings = replace(
                settings, options=options | {KEY: given.setting, "optimizer_state": "card"}
            )
        elif rung in (Rung.OPTIMIZER_8BIT, Rung.OPTIMIZER_HOST):
            settings = replace(settings, options=options | {"optimizer_state": given.setting})
        else:
            raise ValueError(f"{rung} is no setting of a run")
    return settings


def spec_after(spec: RunSpec, given_up: Sequence[GivenUp]) -> RunSpec:
    """What was submitted, with the rungs that earlier attempts took."""
    if not given_up:
        return spec
    settings = settings_after(spec.settings, given_up)
    return replace(spec, settings=settings, given_up=tuple(map(str, given_up)))


def size_below(size: int) -> int:
    """About nine tenths of a size, in whole strides: each costs about a fifth of the computing."""
    return min(size - 1, round(size * 0.9)) // _SIZE_STEP * _SIZE_STEP


def smaller_model(model: str) -> str | None:
    """The next smaller scale of a YOLO network's name (`yolo11l.yaml` -> `yolo11m.yaml`)."""
    stem, dot, suffix = model.rpartition(".")
    if suffix not in ("yaml", "yml") or "/" in stem:
        return None
    name, dash, task = stem.partition("-")
    if len(name) < 2 or not name.startswith("yolo") or not name[-2].isdigit():
        return None
    at = _SCALES.find(name[-1])
    return f"{name[:-1]}{_SCALES[at - 1]}{dash}{task}{dot}{suffix}" if at > 0 else None


def by_cost(saved: Mapping[Rung, Bytes]) -> Sequence[Rung]:
    """Rungs in the order of estimated time lost per byte won, the cheapest first.

    Args:
        saved: Bytes that each rung wins alone. Rungs that win nothing go last.
    """

    def price(rung: Rung) -> tuple[bool, float]:
        lost, won = COSTS[rung].slowdown - 1.0, saved[rung]
        # A rung that saves time costs less than nothing, the more the faster it is.
        return (won <= 0, lost / won if won > 0 and lost > 0 else lost)

    return sorted(saved, key=lambda rung: (price(rung), rung.value))
