"""ultralytics' training loop with our link in it: progress, stops, checkpoints, cuts, ranks."""

import logging
import math
import time
from dataclasses import asdict
from typing import Any

import torch

from orchestrator.errors import TrainingError
from orchestrator.trainer import yolo_state
from orchestrator.trainer.failures import not_finite
from orchestrator.trainer.handover import put_weights
from orchestrator.trainer.randomness import keyed_seed, random_state, seed_all
from orchestrator.trainer.yolo_apart import can_halve, on_host
from orchestrator.trainer.yolo_attempt import Attempt, Leave
from orchestrator.trainer.yolo_begin import begin
from orchestrator.trainer.yolo_files import Files
from orchestrator.trainer.yolo_ranks import Shared
from orchestrator.trainer.yolo_step import CutStep
from orchestrator.trainer.yolo_unfinished import Unfinished
from orchestrator.trainer.yolo_update import Update
from orchestrator.trainer.yolo_validation import governed
from orchestrator.trainer.yolo_weights import BestWeights
from orchestrator.types import CheckpointRef, Progress, StepProgress

__all__ = ["orchestrated"]

log = logging.getLogger(__name__)

_STEP_SECONDS = 0.5  # signs of life are for people: two a second are plenty
_BAD_STEPS = 20  # fp16: so many steps without a finite loss, and no smaller loss scale will help


def orchestrated(trainer: type[Any], attempt: Attempt) -> type[Any]:
    """A subclass of one of ultralytics' trainers whose loop reports to `attempt`.

    Its name lacks the word Trainer, by which ultralytics decides to load integrations.
    """
    name = f"Orchestrated{trainer.__name__.removesuffix('Trainer')}"
    return type(name, (_Loop, trainer), {"attempt": attempt})


class _Loop(Files, Unfinished, Shared, Update):
    """Mixed into a trainer class, before it: overrides the places where the loop asks and tells."""

    num_validations = 0

    def __init__(self: Any, overrides: dict[str, Any]) -> None:
        super().__init__(overrides=overrides)
        self.ranks = self.attempt.ranks.count
        if self.ranks > 1:
            self.world_size, self.ddp = self.ranks, False  # the process group is the gang's
        self._epoch_begin = time.monotonic()
        self._looked = -math.inf
        self._step = self._bad_steps = 0
        self._checkpoint: CheckpointRef | None = None
        self.best_weights = BestWeights(self.attempt.run_folder / "weights" / "best.pt")

    # ---- setting up

    def _setup_train(self: Any) -> None:
        # One rank at a time as far as ultralytics knows: it would wrap the model for data-parallel
        # training, whose hooks expect one backward a step. Gradients are averaged in our step.
        self.world_size = min(self.world_size, 1)
        if self.args.amp is True and not can_halve(self.device):
            self.args.amp = False  # on all ranks alike; ultralytics would ask rank 0 alone
        super()._setup_train()
        self.world_size = max(self.world_size, self.ranks if self.ranks > 1 else 0)
        state = self.state_to_begin_with()
        if state is not None:
            yolo_state.restore(self, state)
            if not self.attempt.ranks.is_first:  # what was kept is the chance of the first rank
                key = ("yolo", self.attempt.ranks.rank, self.start_epoch, self._num_done)
                seed_all(keyed_seed(self.args.seed, *key[: 4 if self._num_done else 3]))
            self.attempt.best = dict(state["best"])
            self.attempt.state = {"elapsed": state["elapsed"]}
            self.repair_best(state)
        self.attempt.kept = state = None  # frees the tensors
        micro_batch, governor = self.attempt.task.batch.micro_batch, self.attempt.governor
        prepare = super().preprocess_batch
        self.reduction = self.make_reduction()
        cut = self.make_cut()
        governor.can_repeat = cut.can_repeat
        self.model.forward = CutStep(
            self, micro_batch, prepare, governor=governor, reduction=self.reduction, cut=cut
        )
        self.seek_room()
        self.make_passing()

    def setup_model(self: Any) -> Any:
        """Build the model, whose strides are found by a trial run, in the host's memory."""
        with on_host(self.attempt.device):
            build, is_followed = super().setup_model, bool(self.attempt.task.spec.warm)
            found = begin(self, build) if is_followed and self.ranks == 1 else build()
            given, source = self.attempt.weights, self.attempt.task.weights
            if given is not None and source is not None:
                put_weights(self.model, given, source)
                self.attempt.weights = None  # frees the tensors
            return found

    def preprocess_batch(self: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Leave a batch on the host: the step moves it, in pieces where it has to be cut."""
        return batch

    def get_validator(self: Any) -> Any:
        """Validation, too, is cut where memory runs out."""
        attempt, validator = self.attempt, super().get_validator()
        return governed(validator, attempt.governor, attempt.ranks, self.leave_if_asked)

    # ---- while it trains

    def run_callbacks(self: Any, event: str) -> None:
        """Call ultralytics' callbacks of the event, then ours."""
        super().run_callbacks(event)
        handle = getattr(self, f"_{event}", None)
        if handle is not None:
            handle()

    def elapsed(self: Any) -> float:
        """Seconds of training, those of earlier attempts included."""
        return float(time.time() - self.train_time_start)

    def _on_train_start(self: Any) -> None:
        super()._on_train_start()
        if self.attempt.state is not None:
            self.train_time_start -= self.attempt.state["elapsed"]

    def _on_train_epoch_start(self: Any) -> None:
        self._oom_retries = 3  # its own limit: it never halves the batch, which is the experiment
        self._step = 0
        self._begin_epoch()
        self.attempt.governor.epoch_begins(self.epoch + 1)

    def _on_train_batch_end(self: Any) -> None:
        self._step += 1
        if self._step <= self._num_done:
            return
        self._demand_finite_step()
        now = time.monotonic()
        if now - self._looked >= _STEP_SECONDS and self.attempt.task.rank == 0:
            self._looked = now
            images = self._step * self.attempt.task.batch.effective_batch
            self.attempt.link.step(
                StepProgress(
                    epoch=self.epoch + 1,
                    epochs=self.epochs,
                    step=self._step,
                    num_steps=len(self.train_loader),
                    images_per_second=images / (now - self._epoch_begin),
                    # of a gang, the part of this rank, as if the others had the same
                    loss=self.ranks * float(sum(float(v) for v in self.loss_items.values())),
                )
            )
        self.leave_if_asked()

    def _demand_finite_step(self: Any) -> None:
        if bool(self.loss.isfinite()):
            self._bad_steps = 0
            return
        self._bad_steps += 1
        # With a loss scale the step is skipped and the scale halved. Without, weights are NaN now.
        if not self.scaler.is_enabled() or self._bad_steps >= _BAD_STEPS:
            raise self._not_finite(f"at step {self._step} of {len(self.train_loader)}", self.loss)

    def _handle_nan_recovery(self: Any, epoch: int) -> bool:
        """Raise, where ultralytics goes back to its last checkpoint, at worst again and again.

        Raises:
            TrainingError: NAN_LOSS.
        """
        for what, value in (("loss", self.loss), ("fitness", self.fitness)):
            if value is not None and not math.isfinite(_number(value)):
                raise self._not_finite(f"as {what} after epoch {epoch + 1}", value)
        return False

    def _not_finite(self: Any, where: str, value: Any) -> TrainingError:
        rates = ", ".join(f"{group['lr']:.3g}" for group in self.optimizer.param_groups)
        return not_finite(
            _number(value),
            f"{where} in epoch {self.epoch + 1}",
            why=(
                f"optimizer {self.args.optimizer}, learning rates {rates}",
                f"precision {self.args.amp if self.amp else 'fp32'}",
            ),
            fix=("lower lr0", "amp: bf16 or fp32", "look at the labels"),
        )

    # ---- after an epoch

    def validate(self: Any) -> Any:
        """Validate, and count: the order of the validation loader is part of the state."""
        self.attempt.ranks.average_statistics([self.model, self.ema.ema])
        self.before_validation = random_state()  # it may begin anew, and draws when it begins
        found = super().validate()
        self.before_validation = None
        self.num_validations += 1
        return found

    def epoch_metrics(self: Any) -> dict[str, float]:
        """All numbers of the epoch, under ultralytics' own names."""
        found = {**self.label_loss_items(self.tloss), **(self.metrics or {}), **self.lr}
        if self.fitness is not None:
            found["fitness"] = self.fitness
        return {name: float(value) for name, value in found.items()}

    def save_model(self: Any) -> bool:
        """Write our checkpoint in the place of ultralytics' own; called by rank 0."""
        metrics = self.epoch_metrics()
        is_best = self.best_fitness == self.fitness
        if is_best:
            self.attempt.best = {"epoch": self.epoch + 1, "metrics": metrics}
            self.take_best(metrics)
        if not is_best or self._is_last():
            self.write_best()  # nobody comes back to this epoch's weights
        results = self.csv.read_text(encoding="utf-8")
        state = yolo_state.capture(self, best=self.attempt.best, results=results)
        state |= {"finished": bool(self.stop), "owed": self.best_weights.is_owed}
        with on_host(self.attempt.device):
            self._checkpoint = self.attempt.link.save(
                self.epoch + 1,
                lambda file: yolo_state.write(state, file),
                is_best=is_best,
                check=yolo_state.check,
            )
        self.attempt.base = self._checkpoint.sha256
        return False

    def _is_last(self: Any) -> bool:
        """Whether the run ends with this epoch: it may be recorded as complete from now on."""
        until = self.attempt.task.spec.until
        return bool(self.stop) or (until is not None and self.epoch + 1 >= until)

    def _on_fit_epoch_end(self: Any) -> None:
        memory = self.attempt.governor.epoch_ends()
        if self.attempt.task.rank == 0:
            self._publish(self.csv)
            self.attempt.link.report(
                Progress(
                    epoch=self.epoch + 1,
                    epochs=self.epochs,
                    metrics=self.epoch_metrics(),
                    seconds=time.monotonic() - self._epoch_begin,
                    num_images=len(self.train_loader.dataset),
                    **self.attempt.choices.told(),
                    **asdict(memory),
                ),
                self._checkpoint,
            )
        if self._asked() is not None and not self.stop:
            raise Leave

    def close(self: Any) -> None:
        """Leave the best weights where a failure came between; end the processes of the loaders."""
        try:
            self.write_best()
        except (OSError, RuntimeError) as error:  # torch has its own for a full disk
            log.warning("weights/best.pt is not that of the best epoch: %s", error)
        for name in ("train_loader", "test_loader"):
            loader: Any = getattr(self, name, None)
            if hasattr(loader, "close"):
                loader.close()


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
