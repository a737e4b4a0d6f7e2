"""What ranks of a YOLO model whose BatchNorm works together do, in processes of their own."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from orchestrator.trainer.microbatch import OBJECT_KEYS, cut, cut_detection
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_whole import NUM_DIVISORS
from orchestrator.types import BatchPlan
from tests.trainer.gang_work import Arrays, gradients
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
        trainer = SimpleNamespace(
            model=model,
            args=model.args,
            batch_size=size,
            world_size=batch.world_size,
            accumulate=1,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            images_of_step=lambda: size,
        )
        reduction = None
        if ranks.count > 1:
            num_exchanged = 0 if TASKS[name] == "classify" else NUM_DIVISORS
            reduction = Reduction(
                model.parameters(), ddp_options(ON)[0], ranks.count, num_exchanged=num_exchanged
            )
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
