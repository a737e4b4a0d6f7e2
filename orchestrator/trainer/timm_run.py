"""One attempt at a classifier: its epochs, early stopping, stops that were asked for, ranks."""

import logging
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
from orchestrator.trainer.failures import check_task
from orchestrator.trainer.feed import Feed
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.handover import best_classifier, put_weights
from orchestrator.trainer.history import History
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.offers import offer_shard, offer_size
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_ddp import Shard, ddp_options
from orchestrator.trainer.options_memory import memory_options
from orchestrator.trainer.options_save import save_seconds
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
from orchestrator.trainer.timm_epoch import EpochSteps, Left, UnderWay
from orchestrator.trainer.timm_files import (
    in_run,
    leave_files,
    read_checkpoint,
    write_checkpoint,
)
from orchestrator.trainer.unfinished import agreed_unfinished, is_of
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.types import (
    CheckpointRef,
    Metrics,
    Outcome,
    Progress,
    StopMode,
    TrainTask,
)

__all__ = ["TimmRun"]

log = logging.getLogger(__name__)


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
        self._history, self._under_way = History(), UnderWay()
        self._checkpoints, self._base = Path(), ""  # the folder, and the newest one's hash
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
        seconds, _ = save_seconds(asked.options)
        self._steps = EpochSteps(
            task, link, ranks, self._learner, self._feed, every=seconds, keep=self._keep
        )
        self._go_on()

    def _go_on(self) -> None:
        """Take up what the attempts before have left, if there were any."""
        self._seed_rank()
        if self._link.resume_from is not None:
            self._resume(self._link.resume_from)
        kept = agreed_unfinished(self._link, self._ranks)
        if kept is not None:
            self._resume_within(kept)

    def _seed_rank(self) -> None:
        """Begin this rank's own chance: masks of dropout are not to be alike on all ranks."""
        rank, steps = self._ranks.rank, self._under_way.step
        key = ("train", rank, self._history.epoch, steps) if rank else ("train",)
        seed_all(keyed_seed(self._settings.seed, *key))

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
        except Left:
            return Outcome.YIELDED, history.best_metrics
        finally:
            self._feed.close()
        weights = self._learner.weights()
        if self._ranks.is_first:
            with on_host(self._device):
                self._finish(weights)
        return Outcome.FINISHED, history.best_metrics

    def _epoch(self, epoch: int) -> None:
        steps = self._steps
        steps.begin(self._under_way)
        self._under_way = UnderWay()
        self._governor.epoch_begins(epoch)
        train_loss = steps.train(epoch)
        self._learner.average_statistics()
        metrics = self._ranks.of_first(
            {
                "train/loss": train_loss,
                **self._learner.evaluate(
                    steps.watched(self._feed.validation, self._feed.num_validations)
                ),
                "lr/pg0": self._learner.lr,
            }
        )
        steps.demand_finite(metrics["val/loss"], f"of validation after epoch {epoch}")
        seconds = steps.seconds
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

    def _asked(self) -> StopMode | None:
        return self._ranks.agreed(self._link.stop_requested())

    def _keep(self, under_way: UnderWay) -> None:
        """Keep the state within an epoch: all that an attempt needs to go on from there."""
        learner = self._learner.state()  # gathered from all ranks where it is split
        if self._ranks.is_first:
            state = self._state(learner) | {
                "expected": self._expected(),
                "under_way": asdict(under_way),
            }
            write_checkpoint(state, self._link, self._device, step=under_way.step)
            log.info("kept %d of %d steps of the epoch", under_way.step, self._feed.num_steps)

    def _expected(self) -> dict[str, Any]:
        """What an epoch under way has to be of, or its steps would be others."""
        return {
            "checkpoint": self._base,
            "batch": self._task.batch.effective_batch,
            "pictures": self._feed.num_samples,
        }

    def _save(self, learner: dict[str, Any], *, is_best: bool) -> CheckpointRef:
        checkpoint = write_checkpoint(
            self._state(learner), self._link, self._device, is_best=is_best
        )
        self._checkpoints, self._base = Path(checkpoint.path).parents[1], checkpoint.sha256
        if is_best:
            self._history.best_file = in_run(Path(checkpoint.path))
        return checkpoint

    def _state(self, learner: dict[str, Any]) -> dict[str, Any]:
        return {
            "classes": list(self._classes),
            "learner": learner,
            "random": random_state(),
            "history": asdict(self._history),
        }

    def _resume(self, checkpoint: CheckpointRef) -> None:
        state = read_checkpoint(checkpoint, self._classes, self._settings.data, self._device)
        self._restore(state)
        path, self._base = Path(checkpoint.path), checkpoint.sha256
        self._history.best_file = self._history.best_file or in_run(path)
        if checkpoint.attempt.run_id != self._task.attempt.run_id:
            self._history = self._history.of_clone()
        self._checkpoints = path.parents[1]

    def _resume_within(self, kept: CheckpointRef) -> None:
        """Go on within the epoch that the attempt before has left, if it is the next one."""
        state = read_checkpoint(kept, self._classes, self._settings.data, self._device)
        if is_of(state, self._expected()):
            self._under_way = UnderWay(**state["under_way"])
            self._restore(state)
            log.info("going on after step %d of %d", self._under_way.step, self._feed.num_steps)

    def _restore(self, state: dict[str, Any]) -> None:
        self._learner.restore(state["learner"])
        self._history = History(**state["history"])
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
