"""The record of one traced step: every storage's birth and death, in order, with what it is for."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.types import Bytes

__all__ = ["PARTS", "Birth", "Event", "StepTrace"]

PARTS = (
    "weights", "gradients", "optimizer", "ema", "activations", "loss", "data", "workspace",
    "statistics", "scratch",
)  # fmt: skip
"""What a storage is for; the CUDA context is not a storage.

"weights" includes the copies in half precision that autocast keeps, and buffers; "gradients" are
those of weights, while those of activations are "activations"; "workspace" is what an update takes
and gives back; "statistics" are the running ones of BatchNorm, and those that a step can be
repeated from: none without one; "scratch" is what a kernel takes and gives back while it runs,
which counts as reserved, but not among the live bytes.
"""


@dataclass(frozen=True, slots=True)
class Birth:
    """A storage comes into being: `num_bytes` as asked for, not rounded.

    `part` is one of `PARTS`; `module` the dotted path of the module whose forward or backward was
    running, "" outside of any; `op` the operator that returned it. `most` are the samples beyond
    which it grows no more, since code then takes the batch in portions; 0 is no such number.
    """

    storage: int
    num_bytes: Bytes
    part: str
    module: str = ""
    op: str = ""
    most: int = 0


Event = Birth | int  # an int is the death of the storage of that number


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrace:
    """Everything that two steps of `batch` samples allocate and free, in the order it happened.

    Storages count from 0 in the order of birth. `marks` names positions in `events`, ascending:
    ("build", 0), ("step1:forward", ...), ("step1:backward", ...), ("step1:update", ...),
    ("step2:forward", ...) and so on. The forward phase ends with the loss. In a step that is cut,
    forward and backward come once a piece; a step without gradients has the forward mark alone.
    Storages alive at the end have no death.
    """

    batch: int
    events: Sequence[Event]
    marks: Sequence[tuple[str, int]]
