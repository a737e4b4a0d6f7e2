"""The steps of ultralytics' models, performed on a stage by its trainers' own code and our cut."""

import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from orchestrator.errors import ConfigError
from orchestrator.memory.boxes import boxes_of
from orchestrator.memory.optimizer_state import of_8_bits
from orchestrator.memory.probe import room_of
from orchestrator.memory.split import Units
from orchestrator.memory.stage import FakeStage, Stage
from orchestrator.memory.suppression import predictions_in, suppression_bytes
from orchestrator.memory.yolo_parts import looping, place, without_first_weights
from orchestrator.plan.workload import OptimizerState, StepKind, Workload
from orchestrator.trainer.optimizer_place import HostMemory, placed
from orchestrator.trainer.step_state import StepState
from orchestrator.trainer.update import UpdateRoom
from orchestrator.trainer.yolo_apart import apart
from orchestrator.trainer.yolo_model import find_model
from orchestrator.trainer.yolo_settings import OPTIMIZERS
from orchestrator.trainer.yolo_step import CutStep

__all__ = ["YoloSteps"]

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_ITERATIONS = 100_000  # of a long run: where ultralytics chooses the optimizer, it then takes MuSGD


@dataclass(slots=True)
class _Built:
    trainer: Any
    model: Any
    ema: Any  # ModelEMA or None


class YoloSteps:
    """Steps of a workload, with labels as the workload says.

    Raises:
        ConfigError: There is no such architecture, its task is another, or labels are missing.
        DataError: The weights cannot be read.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        if workload.task != "classify" and workload.labels is None:
            raise ConfigError(
                f"how many boxes the pictures for {workload.model} have is not known",
                code="E2133",
                fix=("labels decide how much memory a detector's loss needs",),
            )
        with tempfile.TemporaryDirectory(prefix="orc-trace-") as folder, apart(folder):
            found = find_model(workload.model)
            if found.task != workload.task:
                raise ConfigError(
                    f"{workload.model} is for the task {found.task}, not {workload.task}",
                    code="E2133",
                )
            with without_first_weights():
                self._template = self._make(deepcopy(found.architecture))
        self._imgsz = -(-workload.imgsz // 32) * 32  # as ultralytics rounds it

    def _make(self, content: Mapping[str, Any]) -> _Built:
        from ultralytics.cfg import get_cfg

        workload = self._workload
        kind = _classes(workload.task)[0]
        trainer = kind.__new__(kind)
        # Of the run's options those are taken that change a step; the others are the defaults.
        # What is ours, such as how ranks talk to each other, ultralytics would refuse.
        options = {k: v for k, v in workload.options if not k.startswith("ddp_")}
        trainer.args = get_cfg(overrides={"task": workload.task, "amp": True, **options})
        trainer.resume = False
        names = {number: str(number) for number in range(workload.num_classes)}
        trainer.data = {"nc": workload.num_classes, "channels": 3, "names": names}
        trainer.data["kpt_shape"] = content.get("kpt_shape")
        trainer.model = trainer.get_model(cfg=content, weights=None, verbose=False)
        trainer.set_model_attributes()
        # As ultralytics/engine/trainer.py does it, in `_build_train_pipeline`.
        frozen = trainer.args.freeze if isinstance(trainer.args.freeze, int) else 0
        trainer.freeze_layer_names = [*(f"model.{n}." for n in range(frozen)), ".dfl"]
        for name, parameter in trainer.model.named_parameters():
            parameter.requires_grad = not any(f in name for f in trainer.freeze_layer_names)
        trainer.stride = 32
        trainer.world_size = trainer.accumulate = 1
        trainer.ema = None
        return _Built(trainer, trainer.model, None)

    def build(self, *, is_fake: bool) -> _Built:
        """Make trainer, model, its averaged copy, and the loss, which reads the strides."""
        from ultralytics.utils.torch_utils import ModelEMA

        built = deepcopy(self._template)
        if not is_fake:  # for numbers that stay finite
            for module in built.model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        if self._workload.has_ema and self._workload.kind is not StepKind.INFER:
            built.ema = built.trainer.ema = ModelEMA(built.model)
        built.model.criterion = built.model.init_criterion()
        if built.ema is not None:
            built.ema.ema.criterion = built.ema.ema.init_criterion()
        return built

    def units(self, built: _Built) -> Units:
        """All of it at once: ultralytics' trainer keeps a whole model on every rank."""
        weights = built.model.parameters()
        return Units(root=sum(each.numel() * each.element_size() for each in weights))

    def perform(self, stage: Stage, built: _Built, batch: int, steps: int = 2) -> object:
        """Perform `steps` steps; returns what has to stay alive."""
        workload, trainer, model = self._workload, built.trainer, built.model
        trainer.device = stage.device
        is_channels_last = workload.is_channels_last
        place(stage, model, "weights", is_channels_last=is_channels_last)
        if workload.kind is StepKind.INFER:
            return self._infer(stage, model, batch, steps)
        optimizer = trainer.build_optimizer(
            model, workload.optimizer, lr=_rate(workload.optimizer), iterations=_ITERATIONS
        )
        trainer.optimizer = (
            of_8_bits(optimizer)
            if workload.optimizer_state is OptimizerState.EIGHT_BIT
            else placed(optimizer, workload.optimizer_state, HostMemory(entered=stage.host))
        )
        if built.ema is not None:
            place(stage, built.ema.ema, "ema", is_channels_last=is_channels_last)
        trainer.scaler = torch.amp.GradScaler(
            stage.device.type, enabled=workload.precision == "fp16"
        )
        if workload.kind is StepKind.VALIDATE:
            return self._validate(stage, built, batch, steps)
        pieces = 2 if workload.is_cut else 1
        trainer.batch_size = batch * pieces

        def prepare(given: Any) -> Any:
            with stage.labelled("data"):
                return trainer.preprocess_batch(given)

        trainer._model_train()
        model.forward = CutStep(trainer, batch, prepare)
        if workload.is_checkpointed:
            model.forward.checkpoint()
        with stage.labelled("statistics"):
            kept = StepState(model, stage.device)
        room = room_of(trainer.optimizer, stage, is_governed=workload.is_governed)
        with _followed(stage, model), looping(stage.answers.groups):
            for number in range(1, steps + 1):
                stage.begin(number)
                self._step(stage, trainer, self._batch(batch * pieces), room)
                stage.owns(trainer.optimizer, trainer.scaler)
        return built, kept

    def _step(self, stage: Stage, trainer: Any, batch: Any, room: UpdateRoom) -> None:
        """The body of the loop in ultralytics/engine/trainer.py, `_do_train`."""
        with self._autocast(stage):
            loss, trainer.loss_items = trainer.model(batch)
            trainer.loss = loss.sum()
        trainer.scaler.scale(trainer.loss).backward()
        room.demand()
        trainer.optimizer_step()

    def _autocast(self, stage: Stage) -> torch.autocast:
        dtype = _HALF.get(self._workload.precision)
        return torch.autocast(stage.device.type, dtype=dtype, enabled=dtype is not None)

    def _batch(self, num_images: int) -> dict[str, Any]:
        workload, size = self._workload, self._imgsz
        if workload.task == "classify":
            return {
                "img": torch.zeros(num_images, 3, size, size),
                "cls": torch.zeros(num_images, dtype=torch.int64),
            }
        assert workload.labels is not None
        shape = self._template.trainer.data["kpt_shape"]
        args = self._template.trainer.args
        return boxes_of(
            workload.task,
            num_images,
            size,
            workload.labels,
            shape,
            mask_ratio=args.mask_ratio,
            has_overlap=args.overlap_mask,
        )

    def _validate(self, stage: Stage, built: _Built, batch: int, steps: int) -> object:
        """As ultralytics/engine/validator.py does it while a training runs; NMS by its size."""
        trainer = built.trainer
        _fill_state(stage, built.model, trainer)
        judged = built.model if built.ema is None else built.ema.ema
        judged.eval()
        if hasattr(judged, "end2end"):
            judged.end2end = False
        is_half = self._workload.precision != "fp32" and stage.device.type != "cpu"
        kind = _classes(self._workload.task)[1]
        validator = kind.__new__(kind)
        validator.device = stage.device
        validator.args = SimpleNamespace(quantize=16 if is_half else None)
        found: Any = None
        with torch.no_grad(), _followed(stage, judged), looping(stage.answers.groups):
            for number in range(1, steps + 1):
                stage.begin(number)
                given = validator.preprocess(self._batch(batch))
                with torch.autocast(
                    stage.device.type, dtype=torch.float16 if is_half else None, enabled=is_half
                ):
                    found = judged(given["img"])
                    judged.loss(given, found)
                self._suppress(stage, found)
        return built, found

    def _suppress(self, stage: Stage, found: Any) -> None:
        """Take what the suppression of overlapping boxes takes at most; obb has a kind of its own.

        That of rotated boxes grows with the square of the candidates, which nobody knows before.
        """
        boxes = predictions_in(found) if self._workload.task not in ("classify", "obb") else None
        if boxes is not None:
            size = suppression_bytes(boxes, self._workload.num_classes)
            with stage.labelled("workspace"):
                torch.empty(size, dtype=torch.uint8, device=stage.device)

    def _infer(self, stage: Stage, model: Any, batch: int, steps: int) -> object:
        model.eval()
        found: Any = None
        with torch.no_grad(), _followed(stage, model):
            for number in range(1, steps + 1):
                stage.begin(number)
                images = self._batch(batch)["img"].to(stage.device)
                with self._autocast(stage):
                    found = model(images.float() / 255)
        return model, found


def _classes(task: str) -> tuple[Any, Any]:
    from ultralytics.models import yolo

    kinds: dict[str, tuple[Any, Any]] = {
        "detect": (yolo.detect.DetectionTrainer, yolo.detect.DetectionValidator),
        "segment": (yolo.segment.SegmentationTrainer, yolo.segment.SegmentationValidator),
        "pose": (yolo.pose.PoseTrainer, yolo.pose.PoseValidator),
        "obb": (yolo.obb.OBBTrainer, yolo.obb.OBBValidator),
        "classify": (yolo.classify.ClassificationTrainer, yolo.classify.ClassificationValidator),
    }
    return kinds[task]


def _rate(optimizer: str) -> float:
    return {name.lower(): rate for name, rate in OPTIMIZERS.items()}.get(optimizer.lower(), 0.01)


def _followed(stage: Stage, model: Any) -> AbstractContextManager[None]:
    if isinstance(stage, FakeStage):
        return stage.followed(model, model.model[0], model.model[-1])
    return nullcontext()


def _fill_state(stage: Stage, model: nn.Module, trainer: Any) -> None:
    """Give the optimizer the state that it has between two epochs."""
    with stage.labelled("gradients"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    with stage.labelled("workspace"):
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
    stage.owns(trainer.optimizer, trainer.scaler)
    stage.settled()
