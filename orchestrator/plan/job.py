"""What is planned: a run's workload on a card, from its spec and what is known about its data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import PlanError
from orchestrator.plan.budget import Target
from orchestrator.plan.workload import Labels, OptimizerState, StepKind, Workload
from orchestrator.types import RunSpec, Scalar

__all__ = ["Facts", "Job", "job_of", "precision_on", "validation_size"]

_TIMM = "timm/"
# Options whose default is traced, and which change what a step keeps, with that default.
_SHAPING: Mapping[str, Mapping[str, Scalar]] = {
    "timm": {
        "dropout": 0.0,
        "drop_path": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "ddp_compression": "none",
        "ddp_shard": "none",
    },
    "yolo": {
        "dropout": 0.0,
        "mask_ratio": 4,
        "overlap_mask": True,
        "freeze": 0,
        "ddp_compression": "none",
    },
}
_STRIDE = 32
# Cards on which ultralytics computes wrongly in fp16 (its own list): the run goes on in fp32.
_BAD_HALF = ("1660", "1650", "1630", "t400", "t550", "t600", "t1000", "t1200", "t2000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the data says: the number of classes, the task, boxes of training and validation."""

    num_classes: int
    task: str = "classify"
    train_labels: Labels | None = None
    validation_labels: Labels | None = None
    num_images: int = 0
    num_validation_images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch to be trained on one kind of card.

    `train` and `validate` are the steps of one rank; validation takes `validation_pieces`
    micro-batches at a time. `limit` is the largest micro-batch that a person allows.
    """

    train: Workload
    validate: Workload
    effective_batch: int
    world_size: int = 1
    limit: int | None = None
    validation_pieces: int = 2

    def __post_init__(self) -> None:
        if min(self.effective_batch, self.world_size, self.limit or 1) < 1:
            raise ValueError(f"not a batch: {self}")
        if self.effective_batch < self.world_size:
            raise ValueError(f"{self.effective_batch} samples on {self.world_size} ranks")

    @property
    def rank_batch(self) -> int:
        """Samples that the rank with the most contributes to a step."""
        return -(-self.effective_batch // self.world_size)


def job_of(spec: RunSpec, facts: Facts, target: Target) -> Job:
    """What a run is on a card: precision, kernels and layout are the card's.

    Raises:
        PlanError: E2021, the micro-batch that was given is larger than the batch.
    """
    limit = spec.micro_batch
    if limit is not None and limit > spec.effective_batch:
        raise PlanError(
            f"micro_batch {limit} of project {spec.project} is larger than its batch",
            code="E2021",
            why=(f"batch is {spec.effective_batch}; a step is cut into pieces, never joined",),
            fix=(f"micro_batch={spec.effective_batch}, or leave it out",),
        )
    options, is_yolo = spec.settings.options, spec.trainer == "yolo"
    train = Workload(
        trainer=spec.trainer,
        model=spec.settings.model.removeprefix(_TIMM),
        imgsz=_largest_size(spec.settings.imgsz, options.get("multi_scale")),
        num_classes=1 if is_yolo and options.get("single_cls") else facts.num_classes,
        task=facts.task,
        precision=precision_on(spec.trainer, spec.settings.amp, target),
        optimizer=spec.settings.optimizer,
        has_ema=is_yolo or bool(options.get("ema_decay", 1.0)),
        is_channels_last=bool(options.get("channels_last", is_yolo) or False)
        and not (is_yolo and target.is_emulated),  # ultralytics: on CUDA alone
        has_flash_attention=_has_flash(target),
        labels=facts.train_labels,
        world_size=spec.num_gpus,
        is_checkpointed=bool(options.get("grad_checkpointing", False)),
        optimizer_state=OptimizerState(str(options.get("optimizer_state", "card"))),
        options=_shaping(spec.trainer, options),
    )
    validate = replace(
        train,
        kind=StepKind.VALIDATE,
        is_checkpointed=False,
        imgsz=validation_size(spec.settings.imgsz, facts.task),
        labels=facts.validation_labels,
    )
    return Job(
        train=train,
        validate=validate,
        effective_batch=spec.effective_batch,
        world_size=spec.num_gpus,
        limit=limit,
        validation_pieces=1 if facts.task == "obb" else 2,  # ultralytics doubles all but obb
    )


def precision_on(trainer: str, amp: str, target: Target) -> str:
    """The precision in which a run computes on a card: fp16, bf16 or fp32.

    `auto` is fp16 for ultralytics on every card; for timm bf16 from compute capability 8.0, fp16
    from 7.0, fp32 below. An emulated card is a CPU: fp32, unless a timm run asks for half.
    """
    if amp not in ("auto", "fp16", "bf16", "fp32"):
        raise ValueError(f"amp is {amp!r}")
    if trainer == "yolo":
        wants_half = amp in ("auto", "fp16")
        name = target.name.lower()
        is_bad = target.is_emulated or any(word in name for word in _BAD_HALF)
        return ("fp32" if is_bad else "fp16") if wants_half else amp
    if amp != "auto":
        return amp
    if target.is_emulated:
        return "fp32"
    major = target.compute_capability[0] if target.compute_capability else 8
    return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"


def _has_flash(target: Target) -> bool:
    capability = target.compute_capability
    return not target.is_emulated and (capability is None or capability >= (8, 0))


def _shaping(trainer: str, options: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    """What of a run's options makes its step another one; where they are the defaults, nothing."""
    known = _SHAPING.get(trainer, {})
    found = {
        name: options[name]
        for name in known
        if options.get(name, known[name]) not in (known[name], None)
    }
    return tuple(sorted(found.items()))


def validation_size(imgsz: int, task: str) -> int:
    """The largest side of a picture in validation.

    ultralytics pads detectors' batches by half a stride and rounds up (`pad=0.5` in
    data/build.py, `set_rectangle` in data/base.py): square pictures of 640 become 672.
    """
    return imgsz if task == "classify" else math.ceil(imgsz / _STRIDE + 0.5) * _STRIDE


def _largest_size(imgsz: int, multi_scale: Scalar) -> int:
    """The largest pictures of a training whose size changes from step to step, in strides."""
    if isinstance(multi_scale, int | float) and multi_scale > 0:
        return math.ceil(imgsz * (1 + multi_scale) / _STRIDE) * _STRIDE
    return imgsz
