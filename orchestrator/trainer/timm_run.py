"""One attempt at a classifier: its epochs, early stopping, stops that were asked for, ranks."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from orchestrator.ports import Device, RunLink
from orchestrator.trainer.choices import Choices, chosen
from orchestrator.trainer.classifier import (
    is_fixed_size,
    make_mix,
    make_model,
    make_transforms,
)
from orchestrator.trainer.failures import check_task, not_finite
from orchestrator.trainer.feed import Feed
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.handover import best_classifier, put_weights
from orchestrator.trainer.history import History
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.loading import Batch, batches
from orchestrator.trainer.offers import offer_shard, offer_size
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_ddp import Shard, ddp_options
from orchestrator.trainer.options_memory import memory_options
from orchestrator.trainer.options_timm import timm_options
from orchestrator.trainer.pictures import find_pictures
from orchestrator.trainer.randomness import (
    keyed_seed,
    random_state,
    seed_all,
    set_random_state,
)
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.sharded_learner import ShardedLearner
from orchestrator.trainer.timm_files import (
    in_run,
    leave_files,
    read_checkpoint,
    write_checkpoint,
)
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.types import (
    CheckpointRef,
    Metrics,
    Outcome,
    Progress,
    StepProgress,
    StopMode,
    TrainTask,
)

__all__ = ["TimmRun"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the loss: each waits for the card


class _Stopped(Exception):  # noqa: N818 - not an error: the way out of nested loops
    pass


class TimmRun:
    """Trains from a fresh start, or from where the attempt before has left.

    Args:
        task: The attempt.
        device: Where it trains.
        link: To the driver; of a gang, the first rank uses it, but for stops.
        governor: Cuts smaller where memory runs out.
        ranks: Of the gang.
    """

    def __init__(
        self, task: TrainTask, device: Device, link: RunLink, governor: Governor, ranks: Ranks
    ) -> None:
        self._task, self._device, self._link = task, device, link
        self._governor, self._ranks = governor, ranks
        self._history = History()
        self._checkpoints = Path()
        check_task(task)
        asked = task.spec.settings
        every, tested = find_pictures(Path(asked.data).expanduser(), asked.seed)
        about = {"num_classes": len(every.classes)}
        found = chosen("timm", task, device, about) if ranks.is_first else ()
        self._choices = Choices(ranks.of_first(found), task.findings)
        self._settings = settings = self._choices.applied(asked)
        self._task = task = replace(task, spec=replace(task.spec, settings=settings))
        self._options = options = timm_options(settings.options)
        sets = every.part(options.fraction), tested
        self._classes = every.classes
        seed_all(keyed_seed(settings.seed, "weights"))
        is_split = ddp_options(settings.options)[0].shard is not Shard.NONE
        with on_host(device) if is_split else nullcontext():
            model = make_model(settings, options, len(self._classes))
        if task.weights is not None and link.resume_from is None:
            with on_host(device):
                given = best_classifier(task.weights, self._classes)
            put_weights(model, given, task.weights)
        self._look = resolve_model_data_config(model)
        self._feed = Feed(
            task,
            ranks,
            sets,
            make_transforms(model, settings, options),
            mix=make_mix(options, len(self._classes), task.batch),
            is_fresh=link.resume_from is None and ranks.is_first,
            pin_memory=options.pin_memory and device.torch_device.startswith("cuda"),
        )
        self._learner = (ShardedLearner if is_split else Learner)(
            model,
            settings,
            options,
            device=torch.device(device.torch_device),
            micro_batch=task.batch.micro_batch,
            steps_per_epoch=self._feed.num_steps,
            governor=None if is_split else governor,
            ranks=ranks,
            host=HostMemory(
                entered=partial(on_host, device), is_pinned=device.torch_device.startswith("cuda")
            ),
        )
        if not is_fixed_size(settings.model):  # a checkpoint of one size loads at another
            offer_size(governor.rungs, settings.imgsz, memory_options(settings.options)[0])
        if not is_split:
            offer_shard(governor.rungs, task.spec)
        self._seed_rank()
        if link.resume_from is not None:
            self._resume(link.resume_from)

    def _seed_rank(self) -> None:
        """Begin this rank's own chance: masks of dropout are not to be alike on all ranks."""
        seed, rank, epoch = self._settings.seed, self._ranks.rank, self._history.epoch
        key = ("train", rank, epoch) if rank else ("train",)
        seed_all(keyed_seed(seed, *key))

    def train(self) -> tuple[Outcome, Metrics]:
        """Train to the last epoch, early stopping, or a stop; the metrics of the best epoch."""
        log.info("training in %s on %s", self._learner.amp, self._device.name)
        history = self._history
        try:
            while history.epoch < self._settings.epochs and not history.is_exhausted(
                self._settings.patience
            ):
                if history.epoch and self._asked() is not None:
                    return Outcome.YIELDED, history.best_metrics
                self._epoch(history.epoch + 1)
        except _Stopped:
            return Outcome.YIELDED, history.best_metrics
        finally:
            self._feed.close()
        weights = self._learner.weights()
        if self._ranks.is_first:
            with on_host(self._device):
                self._finish(weights)
        return Outcome.FINISHED, history.best_metrics

    def _epoch(self, epoch: int) -> None:
        begin = time.perf_counter()
        self._governor.epoch_begins(epoch)
        train_loss = self._train_epoch(epoch, begin)
        self._learner.average_statistics()
        metrics = self._ranks.of_first(
            {
                "train/loss": train_loss,
                **self._learner.evaluate(
                    self._watched(self._feed.validation, self._feed.num_validations)
                ),
                "lr/pg0": self._learner.lr,
            }
        )
        self._demand_finite(metrics["val/loss"], f"of validation after epoch {epoch}")
        seconds = time.perf_counter() - begin
        is_best = self._history.add(metrics, seconds)
        memory = self._governor.epoch_ends()
        learner = self._learner.state()  # gathered from all ranks where it is split
        if not self._ranks.is_first:
            return
        checkpoint = self._save(learner, is_best=is_best)
        progress = Progress(
            epoch=epoch,
            epochs=self._settings.epochs,
            metrics=metrics,
            seconds=seconds,
            num_images=self._feed.num_steps * self._task.batch.effective_batch,
            **self._choices.told(),
            **asdict(memory),
        )
        self._link.report(progress, checkpoint)

    def _train_epoch(self, epoch: int, begin: float) -> float:
        num_steps = self._feed.num_steps
        loss_sum = torch.zeros((), device=self._device.torch_device)
        loss: float | None = None
        looked = -math.inf
        # Between the ends of epochs the first rank tells of its own samples.
        share = self._ranks.batch.effective_batch / self._ranks.share
        for step, batch in enumerate(self._watched(self._feed.training(epoch), num_steps), 1):
            loss_sum += self._learner.learn(batch)
            now = time.perf_counter()
            if now - looked >= LOOK_SECONDS or step == num_steps:
                loss, looked = loss_sum.item() * share / step, now
                self._demand_finite(loss, f"at step {step} of {num_steps} in epoch {epoch}")
            if self._ranks.is_first:
                self._tell(epoch, step, now - begin, loss)
        (whole,) = self._ranks.summed(loss_sum.item() / num_steps)
        return whole

    def _tell(self, epoch: int, step: int, seconds: float, loss: float | None) -> None:
        self._link.step(
            StepProgress(
                epoch=epoch,
                epochs=self._settings.epochs,
                step=step,
                num_steps=self._feed.num_steps,
                images_per_second=step * self._task.batch.effective_batch / seconds,
                loss=loss,
            )
        )

    def _asked(self) -> StopMode | None:
        return self._ranks.agreed(self._link.stop_requested())

    def _watched(self, loader: Any, times: int) -> Iterator[Batch]:
        """The batches of a loader; all ranks ask so many times whether to leave."""
        found = batches(loader)
        for _ in range(times):
            if self._asked() is StopMode.AT_BATCH:
                raise _Stopped
            batch = next(found, None)  # a rank with fewer of them only asks
            if batch is not None:
                yield batch
        for _ in found:  # ends the epoch of the loader
            raise AssertionError("a rank has more batches than it asked for")

    def _demand_finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise not_finite(
                loss,
                where,
                why=(f"learning rate {self._learner.lr:.3g}, precision {self._learner.amp}",),
                fix=("lower lr0, or set grad_clip: 1.0, or amp: bf16 or fp32",),
            )

    def _save(self, learner: dict[str, Any], *, is_best: bool) -> CheckpointRef:
        history = self._history
        state = {
            "classes": list(self._classes),
            "learner": learner,
            "random": random_state(),
            "history": asdict(history),
        }
        checkpoint = write_checkpoint(state, self._link, self._device, is_best=is_best)
        self._checkpoints = Path(checkpoint.path).parents[1]
        if is_best:
            history.best_file = in_run(Path(checkpoint.path))
        return checkpoint

    def _resume(self, checkpoint: CheckpointRef) -> None:
        state = read_checkpoint(checkpoint, self._classes, self._settings.data, self._device)
        self._learner.restore(state["learner"])
        self._history = History(**state["history"])
        path = Path(checkpoint.path)
        self._history.best_file = self._history.best_file or in_run(path)
        if checkpoint.attempt.run_id != self._task.attempt.run_id:
            self._history = self._history.of_clone()
        self._checkpoints = path.parents[1]
        if self._ranks.is_first:
            set_random_state(state["random"])
        else:
            self._seed_rank()

    def _finish(self, weights: dict[str, Tensor]) -> None:
        look = {key: self._look[key] for key in ("mean", "std", "interpolation", "crop_pct")}
        about = {
            "model": self._settings.model,
            "classes": list(self._classes),
            "imgsz": self._settings.imgsz,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in look.items()},
        }
        leave_files(
            self._task,
            self._options,
            self._history,
            weights,
            about=about,
            checkpoints=self._checkpoints,
        )
