"""What one step is made of, as far as its memory depends on it: model, size, precision, labels."""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.types import Scalar

__all__ = ["Labels", "OptimizerState", "StepKind", "Workload"]


class StepKind(StrEnum):
    """What a step does."""

    TRAIN = "train"  # forward, loss, backward, clipping, optimizer, EMA
    VALIDATE = "validate"  # forward of the EMA and loss, without gradients
    INFER = "infer"  # forward alone, without gradients


class OptimizerState(StrEnum):
    """Where the optimizer keeps its state, and in how many bits."""

    CARD = "card"  # as torch does: the parameters' own type, on the card
    EIGHT_BIT = "8bit"  # bitsandbytes
    HOST = "host"  # moved to the card a parameter at a time, or updated on the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Boxes of the images of a batch, after mosaic: they size the tensors of the assigner.

    `most` is the padded label count: the most boxes of any image of the batch. `mean` is the mean
    over its images. `area` is the mean share of the image that a box covers, in [0, 1].
    """

    most: int
    mean: float
    area: float = 0.06

    def __post_init__(self) -> None:
        if self.most < 0 or not 0 <= self.mean <= self.most or not 0 <= self.area <= 1:
            raise ValueError(f"not possible labels: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One step of one rank, but for the number of samples. Two equal workloads need equal bytes.

    `model` is ultralytics' name or path (`yolo11l.yaml`, `best.pt`) or timm's name without the
    prefix. `is_cut` says that the step runs in several pieces, so that gradients are alive while
    later pieces run forward. `labels` is None where there are no boxes (classification).
    """

    trainer: str  # yolo | timm
    model: str
    imgsz: int
    num_classes: int
    task: str = "classify"  # detect | segment | pose | obb | classify
    kind: StepKind = StepKind.TRAIN
    precision: str = "fp16"  # fp16 | bf16 | fp32
    optimizer: str = "AdamW"
    optimizer_state: OptimizerState = OptimizerState.CARD
    has_ema: bool = True
    is_cut: bool = False
    is_channels_last: bool = False
    is_checkpointed: bool = False  # gradient checkpointing
    has_flash_attention: bool = True  # the card's attention kernels: sm 8.0 and newer
    labels: Labels | None = None
    world_size: int = 1
    options: tuple[tuple[str, Scalar], ...] = ()  # of the run, that change a step; sorted
    is_governed: bool = True  # by our trainers, which seek room before an update
