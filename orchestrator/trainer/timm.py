"""Trains one timm classifier: epochs, checkpoints, early stopping, and what is left at the end."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from timm.data import resolve_model_data_config

from orchestrator.errors import DataError, OrchestratorError, TrainingError
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.classifier import (
    is_fixed_size,
    make_mix,
    make_model,
    make_transforms,
)
from orchestrator.trainer.failures import check_task, not_finite, single_sample
from orchestrator.trainer.feed import Feed
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.handover import best_classifier, put_weights
from orchestrator.trainer.history import History
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.loading import Batch, batches
from orchestrator.trainer.offers import offer_size
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.options_memory import memory_options
from orchestrator.trainer.options_timm import timm_options
from orchestrator.trainer.pictures import find_pictures
from orchestrator.trainer.randomness import (
    keyed_seed,
    load_state,
    random_state,
    save_state,
    seed_all,
    set_random_state,
)
from orchestrator.trainer.results import read_weights, write_args, write_results, write_weights
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.types import (
    Cause,
    CheckpointRef,
    Metrics,
    Outcome,
    Progress,
    StepProgress,
    StopMode,
    TrainTask,
)

__all__ = ["TimmTrainer"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the loss: each waits for the card


class TimmTrainer:
    """Implements `ports.Trainer` for `timm/<name>` models on pictures in class folders.

    A step takes the effective batch and runs it in micro-batches. Order and augmentation are
    keyed, and checkpoints hold everything else, so a resumed run equals the undisturbed one.
    """

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        """Train from `link.resume_from` to the last epoch, early stopping, or a stop request.

        Raises:
            ConfigError: The settings are wrong; nothing was trained.
            TrainingError: DATA_ERROR (a picture, folder or weights file), OUT_OF_MEMORY,
                NAN_LOSS, HOST_OUT_OF_MEMORY (a loading process died), USER_ERROR.
        """
        options, _ = memory_options(task.spec.settings.options)
        governor = Governor(task, device, link, options)
        try:
            return _Run(task, device, link, governor).train()
        except DataError as error:
            raise TrainingError(
                error.what,
                cause=Cause.DATA_ERROR,
                code=error.code,
                why=error.why,
                fix=error.fix,
            ) from error
        except OrchestratorError:
            raise
        except Exception as error:
            if "more than 1 value per channel" in str(error):
                if governor.micro_batch < task.batch.micro_batch:  # nobody asked for such pieces
                    raise governor.gave_up(str(error)) from error
                raise single_sample(task) from error
            if not device.is_out_of_memory(error):
                raise
            why = (str(error).splitlines() or [type(error).__name__])[0]
        # Outside of the handler the error is gone, and with it the frames that held the tensors.
        device.release()
        raise governor.gave_up(why)


class _Stopped(Exception):  # noqa: N818 - not an error: the way out of nested loops
    pass


class _Run:
    def __init__(self, task: TrainTask, device: Device, link: RunLink, governor: Governor) -> None:
        self._task, self._device, self._link = task, device, link
        self._governor = governor
        self._settings = settings = task.spec.settings
        self._options = options = timm_options(settings.options)
        self._history = History()
        self._checkpoints = Path()
        check_task(task)
        every, tested = find_pictures(Path(settings.data).expanduser(), settings.seed)
        sets = every.part(options.fraction), tested
        self._classes = every.classes
        seed_all(keyed_seed(settings.seed, "weights"))
        model = make_model(settings, options, len(self._classes))
        if task.weights is not None and link.resume_from is None:
            with on_host(device):
                given = best_classifier(task.weights, self._classes)
            put_weights(model, given, task.weights)
        self._look = resolve_model_data_config(model)
        self._feed = Feed(
            task,
            sets,
            make_transforms(model, settings, options),
            mix=make_mix(options, len(self._classes), task.batch.rank_batch),
            is_fresh=link.resume_from is None,
            pin_memory=device.torch_device.startswith("cuda"),
        )
        self._learner = Learner(
            model,
            settings,
            options,
            device=torch.device(device.torch_device),
            micro_batch=task.batch.micro_batch,
            steps_per_epoch=self._feed.num_steps,
            governor=governor,
            host=HostMemory(
                entered=partial(on_host, device), is_pinned=device.torch_device.startswith("cuda")
            ),
        )
        if not is_fixed_size(settings.model):  # a checkpoint of one size loads at another
            offer_size(governor.rungs, settings.imgsz, memory_options(settings.options)[0])
        seed_all(keyed_seed(settings.seed, "train"))
        if link.resume_from is not None:
            self._resume(link.resume_from)

    def train(self) -> tuple[Outcome, Metrics]:
        log.info("training in %s on %s", self._learner.amp, self._device.name)
        history = self._history
        try:
            while history.epoch < self._settings.epochs and not history.is_exhausted(
                self._settings.patience
            ):
                if history.epoch and self._link.stop_requested() is not None:
                    return Outcome.YIELDED, history.best_metrics
                self._epoch(history.epoch + 1)
        except _Stopped:
            return Outcome.YIELDED, history.best_metrics
        finally:
            self._feed.close()
        with on_host(self._device):
            self._finish()
        return Outcome.FINISHED, history.best_metrics

    def _epoch(self, epoch: int) -> None:
        begin = time.perf_counter()
        self._governor.epoch_begins(epoch)
        train_loss = self._train_epoch(epoch, begin)
        metrics = {
            "train/loss": train_loss,
            **self._learner.evaluate(self._watched(self._feed.validation)),
            "lr/pg0": self._learner.lr,
        }
        self._demand_finite(metrics["val/loss"], f"of validation after epoch {epoch}")
        seconds = time.perf_counter() - begin
        checkpoint = self._save(metrics, seconds)
        progress = Progress(
            epoch=epoch,
            epochs=self._settings.epochs,
            metrics=metrics,
            seconds=seconds,
            num_images=self._feed.num_steps * self._task.batch.effective_batch,
            **asdict(self._governor.epoch_ends()),
        )
        self._link.report(progress, checkpoint)

    def _train_epoch(self, epoch: int, begin: float) -> float:
        num_steps = self._feed.num_steps
        loss_sum = torch.zeros((), device=self._device.torch_device)
        loss: float | None = None
        looked = -math.inf
        for step, batch in enumerate(self._watched(self._feed.training(epoch)), 1):
            loss_sum += self._learner.learn(batch)
            now = time.perf_counter()
            if now - looked >= LOOK_SECONDS or step == num_steps:
                loss, looked = loss_sum.item() / step, now
                self._demand_finite(loss, f"at step {step} of {num_steps} in epoch {epoch}")
            self._link.step(
                StepProgress(
                    epoch=epoch,
                    epochs=self._settings.epochs,
                    step=step,
                    num_steps=num_steps,
                    images_per_second=step * self._task.batch.effective_batch / (now - begin),
                    loss=loss,
                )
            )
        assert loss is not None
        return loss

    def _watched(self, loader: Any) -> Iterator[Batch]:
        for batch in batches(loader):
            if self._link.stop_requested() is StopMode.AT_BATCH:
                raise _Stopped
            yield batch

    def _demand_finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise not_finite(
                loss,
                where,
                why=(f"learning rate {self._learner.lr:.3g}, precision {self._learner.amp}",),
                fix=("lower lr0, or set grad_clip: 1.0, or amp: bf16 or fp32",),
            )

    def _save(self, metrics: dict[str, float], seconds: float) -> CheckpointRef:
        history = self._history
        is_best = history.add(metrics, seconds)
        epoch = history.epoch
        state = {
            "classes": list(self._classes),
            "learner": self._learner.state(),
            "random": random_state(),
            "history": asdict(history),
        }

        def check(file: BinaryIO) -> None:
            found = load_state(file)
            if found.keys() != state.keys() or found["history"]["epoch"] != epoch:
                raise ValueError(f"the checkpoint of epoch {epoch} does not read back")

        with on_host(self._device):
            checkpoint = self._link.save(
                epoch, lambda file: save_state(state, file), is_best=is_best, check=check
            )
        self._checkpoints = Path(checkpoint.path).parents[1]
        if is_best:
            history.best_file = _in_run(Path(checkpoint.path))
        return checkpoint

    def _resume(self, checkpoint: CheckpointRef) -> None:
        path = Path(checkpoint.path)
        with path.open("rb") as file, on_host(self._device):
            state = load_state(file)
        if tuple(state["classes"]) != self._classes:
            raise DataError(
                f"the classes of {self._settings.data} changed since epoch {checkpoint.epoch}",
                code="E3107",
                why=(f"were: {', '.join(state['classes'])}", f"are: {', '.join(self._classes)}"),
                fix=("restore the class folders, or start a new run",),
            )
        self._learner.restore(state["learner"])
        self._history = History(**state["history"])
        self._history.best_file = self._history.best_file or _in_run(path)
        self._checkpoints = path.parents[1]
        set_random_state(state["random"])

    def _finish(self) -> None:
        folder = Path(self._task.spec.folder)
        history, settings, batch = self._history, self._settings, self._task.batch
        look = {key: self._look[key] for key in ("mean", "std", "interpolation", "crop_pct")}
        about = {
            "model": settings.model,
            "classes": list(self._classes),
            "imgsz": settings.imgsz,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in look.items()},
        }
        best_weights = read_weights(self._checkpoints / history.best_file)
        last = {"epoch": history.epoch, "metrics": history.rows[-1]}
        write_weights(folder / "weights" / "last.pt", self._learner.weights(), about | last)
        best = {"epoch": history.best_epoch, "metrics": history.best_metrics}
        write_weights(folder / "weights" / "best.pt", best_weights, about | best)
        write_results(folder / "results.csv", history.rows)
        shared = {key: value for key, value in asdict(settings).items() if key != "options"}
        sizes = {"batch": batch.effective_batch, "micro_batch": batch.micro_batch}
        write_args(folder / "args.yaml", shared | sizes | asdict(self._options))


def _in_run(checkpoint: Path) -> str:
    """Its path below the run's checkpoints: the best may be of another attempt than the last."""
    return f"{checkpoint.parent.name}/{checkpoint.name}"
