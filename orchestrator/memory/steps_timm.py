"""The steps of a timm classifier, performed on a stage by the trainer's own code."""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.memory.optimizer_state import of_8_bits
from orchestrator.memory.probe import room_of
from orchestrator.memory.split import Units
from orchestrator.memory.stage import FakeStage, Stage
from orchestrator.plan.sharded import WHOLE, place_of
from orchestrator.plan.workload import OptimizerState, StepKind, Workload
from orchestrator.trainer.classifier import make_model
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.step_state import StepState
from orchestrator.types import TrainSettings

__all__ = ["TimmSteps"]

_STEPS_PER_EPOCH = 1000  # only the schedule reads it


class TimmSteps:
    """Steps of a workload, of batches that hold nothing in particular.

    Raises:
        ConfigError: timm has no such model or optimizer, or cannot make it.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._settings = TrainSettings(
            model=f"timm/{workload.model}",
            data="",
            imgsz=workload.imgsz,
            epochs=100,
            amp=workload.precision,
            optimizer=workload.optimizer,
        )
        self._options = TimmOptions(
            grad_clip=1.0,
            ema_decay=0.9998 if workload.has_ema else 0.0,
            channels_last=workload.is_channels_last,
            grad_checkpointing=workload.is_checkpointed,
            optimizer_state="host" if workload.optimizer_state is OptimizerState.HOST else "card",
            **_options(workload),
        )
        self._template: nn.Module | None = None

    def build(self, *, is_fake: bool) -> nn.Module:
        """Make the model; for fake tensors on torch's meta device, if it needs no numbers."""
        if not is_fake:
            return self._make()
        if self._template is None:
            try:
                with torch.device("meta"):
                    self._template = self._make()
            except ConfigError:
                raise
            except Exception:
                self._template = self._make()
        return deepcopy(self._template)

    def _make(self) -> nn.Module:
        return make_model(self._settings, self._options, self._workload.num_classes)

    def perform(self, stage: Stage, model: nn.Module, batch: int, steps: int = 2) -> object:
        """Perform `steps` steps; returns what has to stay alive."""
        workload = self._workload
        stage.place(model, "weights", is_channels_last=workload.is_channels_last)
        if workload.kind is StepKind.INFER:
            return self._infer(stage, model, batch, steps)
        with stage.labelled("ema"):
            learner = Learner(
                model,
                self._settings,
                self._options,
                device=stage.device,
                micro_batch=batch,
                steps_per_epoch=_STEPS_PER_EPOCH,
                host=HostMemory(entered=stage.host),
            )
        if workload.optimizer_state is OptimizerState.EIGHT_BIT:
            learner._optimizer = of_8_bits(learner._optimizer)
        if workload.kind is StepKind.VALIDATE:
            _fill_state(stage, model, learner)
            judged = learner._judged()
            for number in range(1, steps + 1):
                stage.begin(number)
                with _followed(stage, judged):
                    learner.evaluate([self._batch(batch)])
            return learner
        is_whole = place_of(workload) == WHOLE  # else no rank can repeat a step
        with stage.labelled("statistics"):
            kept = StepState(model, stage.device) if is_whole else None
        if workload.is_governed and is_whole:
            _seek_room(learner, stage)
        with _followed(stage, model):
            for number in range(1, steps + 1):
                pieces = 2 if workload.is_cut else 1
                stage.begin(number)
                learner.learn(self._batch(batch * pieces))
                stage.owns(learner._optimizer, learner._scaler)
        return learner, kept

    def units(self, built: nn.Module) -> Units:
        """What becomes whole together where the ranks of a gang share out the weights."""
        from orchestrator.trainer.sharding import unit_bytes  # which imports all of FSDP

        root, blocks = unit_bytes(built)
        return Units(root=root, blocks=blocks)

    def _batch(self, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        size, options = self._workload.imgsz, self._options
        images = torch.rand(num_samples, 3, size, size)
        is_training = self._workload.kind is StepKind.TRAIN
        if is_training and (options.mixup or options.cutmix):  # a share of every class
            return images, torch.rand(num_samples, self._workload.num_classes)
        return images, torch.zeros(num_samples, dtype=torch.int64)

    def _infer(self, stage: Stage, model: nn.Module, batch: int, steps: int) -> object:
        model.eval()
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self._workload.precision)
        layout = torch.channels_last if self._workload.is_channels_last else torch.contiguous_format
        found: Any = None
        with torch.no_grad(), _followed(stage, model):
            for number in range(1, steps + 1):
                stage.begin(number)
                images = self._batch(batch)[0].to(stage.device, memory_format=layout)
                with torch.autocast(stage.device.type, dtype=dtype, enabled=dtype is not None):
                    found = model(images)
        return model, found


def _options(workload: Workload) -> dict[str, Any]:
    """Of a run's options those that change its step."""
    return dict(workload.options)


def _followed(stage: Stage, root: nn.Module) -> AbstractContextManager[None]:
    return stage.followed(root, root, root) if isinstance(stage, FakeStage) else nullcontext()


def _seek_room(learner: Learner, stage: Stage) -> None:
    """Let it seek room for every update, as it does under a governor."""
    room, gradients = room_of(learner._optimizer, stage), learner._gradients

    def with_room(batch: Any, micro_batch: int) -> torch.Tensor:
        loss = gradients(batch, micro_batch)
        room.demand()
        return loss

    learner._gradients = with_room  # type: ignore[method-assign]


def _fill_state(stage: Stage, model: nn.Module, learner: Learner) -> None:
    """Give the optimizer the state that it has between two epochs."""
    with stage.labelled("gradients"):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    with stage.labelled("workspace"):
        learner._optimizer.step()
        learner._optimizer.zero_grad()
    stage.owns(learner._optimizer, learner._scaler)
    stage.settled()
