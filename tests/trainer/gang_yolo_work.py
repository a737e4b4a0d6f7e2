"""What ranks do in tests of gangs that train YOLO models, in processes of their own."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer.microbatch import OBJECT_KEYS, cut, cut_detection
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_whole import NUM_DIVISORS
from orchestrator.types import BatchPlan, CheckpointRef, Scalar, StopMode, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.gang_work import TimmFit, gradients

__all__ = ["reduction_of", "trainer_of", "yolo_fit", "yolo_gradients"]


def part_of(task: str, num_images: int, batch: BatchPlan, rank: int) -> dict[str, Any]:
    """A rank's share of the first pictures of a batch."""
    from tests.trainer.test_yolo_step import COUNTS, batch_of

    whole = batch_of(task)
    shares = [batch.share(n) for n in range(batch.world_size)]
    sizes = [*shares, *([len(COUNTS) - num_images] if len(COUNTS) > num_images else [])]
    if task == "classify":
        mine = cut(whole, sizes)[rank]
        assert isinstance(mine, dict)
        return mine
    return cut_detection(whole, sizes, object_keys=OBJECT_KEYS & whole.keys())[rank]


def trainer_of(model: Any, batch: BatchPlan) -> Any:
    """What a step that is cut reads of a trainer of ultralytics."""
    return SimpleNamespace(
        model=model,
        args=model.args,
        batch_size=batch.effective_batch,
        world_size=batch.world_size,
        accumulate=1,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        images_of_step=lambda: batch.effective_batch,
    )


def reduction_of(
    model: Any, task: str, batch: BatchPlan, options: dict[str, Scalar]
) -> Reduction | None:
    """What sums gradients over ranks; nothing on one rank."""
    if batch.world_size == 1:
        return None
    return Reduction(
        model.parameters(),
        ddp_options(options)[0],
        batch.world_size,
        num_exchanged=0 if task == "classify" else NUM_DIVISORS,
    )


def yolo_gradients(
    rank: int, name: str, batch: BatchPlan, folder: str
) -> tuple[dict[str, Any], float, dict[str, float]]:
    """Gradients, loss and loss items of one step; without a reduction on one rank."""
    with apart(folder):
        from orchestrator.trainer.yolo_step import CutStep
        from tests.trainer.test_yolo_step import TASKS, model_of

        model = model_of(name)
        reduction = reduction_of(model, TASKS[name], batch, {"ddp_bucket_mb": 1})
        whole = model.forward
        model.criterion = None
        trainer = trainer_of(model, batch)
        model.forward = CutStep(trainer, batch.micro_batch, dict, reduction=reduction)
        terms, items = model(part_of(TASKS[name], batch.effective_batch, batch, rank))
        model.forward = whole
        if reduction is not None:
            reduction.complete()
        found = gradients(model)
        return found, terms.sum().item(), {k: float(v) for k, v in items.items()}


def yolo_fit(
    rank: int,
    folder: str,
    settings: TrainSettings,
    batch: BatchPlan,
    stop_at: int | None,
    resume_from: CheckpointRef | None,
) -> TimmFit:
    """A whole attempt; rank 0 is asked to leave at the batch with this number."""

    def stop(link: RecordingLink) -> StopMode | None:
        is_asked = stop_at is not None and rank == 0 and link.num_asked > stop_at
        return StopMode.AT_BATCH if is_asked else None

    link = RecordingLink(Path(folder) / "checkpoints", stop_when=stop, resume_from=resume_from)
    task = replace(attempt_of(settings, Path(folder), batch=batch), rank=rank)
    own = Path(task.folder) / f"rank-{rank}"
    own.mkdir(parents=True, exist_ok=True)
    device = CpuDevice()
    with device.session():
        outcome, metrics = YoloTrainer().fit(replace(task, folder=str(own)), device, link)
    return outcome, dict(metrics), link.reported, link.saved, link.num_asked
