"""Work for the bench of gangs: a classifier that learns noise, on one rank of several."""

import argparse

import timm
import torch

from orchestrator.trainer.learner import Learner
from orchestrator.trainer.options_timm import timm_options
from orchestrator.trainer.ranks import Ranks
from orchestrator.types import (
    AttemptId,
    BatchPlan,
    DeviceKind,
    RunId,
    RunSpec,
    Scalar,
    TrainSettings,
    TrainTask,
)

__all__ = ["learner_of", "task_of"]


def task_of(given: argparse.Namespace, compression: str, rank: int) -> TrainTask:
    """An attempt of so many ranks; PowerSGD compresses from its third step on."""
    options: dict[str, Scalar] = {
        "ddp_compression": compression,
        "ddp_powersgd_start": 2,
        "ema_decay": 0.0,
    }
    settings = TrainSettings(
        model=given.model, data="", imgsz=given.imgsz, epochs=1, options=options
    )
    share = -(-given.batch // given.ranks)
    batch = BatchPlan(effective_batch=given.batch, world_size=given.ranks, micro_batch=share)
    spec = RunSpec(
        run_id=RunId("bench-gang"),
        project="bench-gang",
        trainer="timm",
        settings=settings,
        effective_batch=given.batch,
        folder="",
        device=DeviceKind.CPU,
        num_gpus=given.ranks,
    )
    attempt = AttemptId(run_id=spec.run_id, number=1)
    return TrainTask(attempt=attempt, spec=spec, batch=batch, folder="", rank=rank)


def learner_of(task: TrainTask, ranks: Ranks, device: torch.device) -> Learner:
    """A classifier of a thousand classes that learns on this rank."""
    settings = task.spec.settings
    model = timm.create_model(settings.model.removeprefix("timm/"), num_classes=1000)
    return Learner(
        model,
        settings,
        timm_options(settings.options),
        device=device,
        micro_batch=task.batch.micro_batch,
        steps_per_epoch=1000,
        ranks=ranks,
    )
