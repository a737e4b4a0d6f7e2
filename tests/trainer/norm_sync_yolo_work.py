"""What ranks of a YOLO model whose BatchNorm works together do, in processes of their own."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from orchestrator.trainer.microbatch import OBJECT_KEYS, cut, cut_detection
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.yolo_apart import apart
from orchestrator.types import BatchPlan
from tests.trainer.gang_work import Arrays, gradients
from tests.trainer.gang_yolo_work import reduction_of, trainer_of
from tests.trainer.norm_sync_work import ON, running

__all__ = ["YoloStepped", "yolo_stepped"]

YoloStepped = tuple[Arrays, Arrays, float, dict[str, float]]


def yolo_stepped(
    rank: int, name: str, batch: BatchPlan, folder: str, order: Sequence[int] | None = None
) -> YoloStepped:
    """Gradients, running statistics, loss and loss items of one step, BatchNorm in training.

    Args:
        rank: Of this process.
        name: Of the architecture.
        batch: How the first pictures are shared and cut.
        folder: For ultralytics.
        order: Of the pictures.
    """
    with apart(folder):
        from orchestrator.trainer.step_cut import StepCut
        from orchestrator.trainer.yolo_step import CutStep
        from tests.trainer.test_yolo_step import TASKS, model_of

        model, size, ranks = model_of(name).train(), batch.effective_batch, Ranks(batch, rank)
        model.double()  # single precision alone makes a difference of 3e-5
        trainer, reduction = trainer_of(model, batch), reduction_of(model, TASKS[name], batch, ON)
        together = StepCut(model, batch.micro_batch, ranks, reduction=reduction, is_synced=True)
        assert not any("Sync" in type(module).__name__ for module in model.modules())
        model.criterion = None
        model.forward = CutStep(trainer, batch.micro_batch, dict, reduction=reduction, cut=together)
        numbers = list(order or range(size))
        begin = batch.begin(rank)
        terms, items = model(pictures(TASKS[name], numbers[begin : begin + batch.share(rank)]))
        if reduction is not None:
            reduction.complete()
        found = gradients(model)
        return found, running(model), terms.sum().item(), {k: float(v) for k, v in items.items()}


def pictures(task: str, numbers: Sequence[int]) -> dict[str, Any]:
    """A batch of pictures in any order."""
    from tests.trainer.test_yolo_step import COUNTS, batch_of

    whole, singles = batch_of(task), [1] * len(COUNTS)
    parted = partial(cut_detection, object_keys=OBJECT_KEYS & whole.keys())
    pieces: Any = cut(whole, singles) if task == "classify" else parted(whole, singles)
    for place, number in enumerate(numbers):
        if "batch_idx" in whole:
            pieces[number]["batch_idx"] = pieces[number]["batch_idx"] + place
    found = {key: torch.cat([pieces[number][key] for number in numbers]) for key in whole}
    return found | {"img": found["img"].double()}
