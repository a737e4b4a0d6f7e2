"""Everything a YOLO training is made of at the end of an epoch: captured, written, put back."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from orchestrator.trainer.pack import own_state
from orchestrator.trainer.randomness import (
    load_state,
    random_state,
    save_state,
    set_random_state,
)
from orchestrator.trainer.rates import restore_under_own_rates

__all__ = ["capture", "check", "is_clone", "read", "restore", "write"]

_VERSION = 1
_KEYS = frozenset(
    {"version", "epoch", "epochs", "model", "ema", "optimizer", "random", "best", "results"}
)


def capture(
    trainer: Any, *, best: Mapping[str, Any], results: str, epoch: int | None = None
) -> dict[str, Any]:
    """The state after an epoch, without a copy: write it before anything trains on.

    Args:
        trainer: An ultralytics trainer between the validation of an epoch and the next epoch.
        best: What the caller remembers of the best epoch: plain values.
        results: The text of results.csv.
        epoch: How many epochs are done, where the next one is under way.
    """
    optimizer = trainer.optimizer.state_dict()
    return {
        "version": _VERSION,
        "epoch": trainer.epoch + 1 if epoch is None else epoch,
        "epochs": trainer.epochs,
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "updates": trainer.ema.updates,
        "optimizer": {
            "state": optimizer["state"],
            "param_groups": _plain(optimizer["param_groups"]),
        },
        "scaler": trainer.scaler.state_dict(),
        "stopper": _plain(vars(trainer.stopper)),
        "best_fitness": _plain(trainer.best_fitness),
        "fitness": _plain(trainer.fitness),
        "metrics": _plain(trainer.metrics),
        "loss_names": list(trainer.loss_names),
        "buffer": [int(index) for index in _buffer(trainer) or ()],
        "validations": trainer.num_validations,
        "elapsed": trainer.elapsed(),
        "random": random_state(),
        "best": _plain(best),
        "results": results,
    }


def write(state: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a captured state."""
    save_state(state, file)


def read(file: BinaryIO) -> dict[str, Any]:
    """Read a state onto the CPU, without running code.

    Raises:
        pickle.UnpicklingError: It is not a file of plain values.
        ValueError: It is not a state of this version.
    """
    state = load_state(file)
    if state.get("version") != _VERSION:
        raise ValueError("not a YOLO checkpoint of this version of orchestrator")
    if not state.keys() >= _KEYS:
        raise ValueError(f"a YOLO checkpoint without {', '.join(sorted(_KEYS - state.keys()))}")
    return state


def check(file: BinaryIO) -> None:
    """Load a checkpoint back for real; raises what `read` raises."""
    read(file)


def restore(trainer: Any, state: Mapping[str, Any]) -> None:
    """Put a state back into a trainer that was set up as for a fresh start.

    Order matters: the random state comes last, because filling the mosaic buffer and building
    the model draw numbers.

    Exact with `workers: 0`. Loader processes seed their own generators and keep mosaic buffers
    of their own: with `workers` > 0 the order of pictures goes on exactly, their augmentation is
    drawn anew.
    """
    done = int(state["epoch"])
    trainer.model.load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.ema.updates = state["updates"]
    _restore_optimizer(trainer, state["optimizer"])
    if state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    vars(trainer.stopper).update(state["stopper"])
    trainer.best_fitness, trainer.fitness = state["best_fitness"], state["fitness"]
    if is_clone(trainer):
        trainer.best_fitness = None  # the best of this run is to come
    trainer.metrics = dict(state["metrics"])
    trainer.loss_names = tuple(state["loss_names"])
    trainer.start_epoch = done
    trainer.scheduler.last_epoch = done - 1
    _restore_criterion(trainer, done)
    steps = state["under_way"]["step"] if "under_way" in state else 0
    _replay(trainer.train_loader, _passes(trainer, done, steps))
    trainer.num_validations = state["validations"]
    _replay(trainer.test_loader, [state["validations"] * len(trainer.test_loader)])
    _fill_buffer(trainer, state["buffer"])
    if state["results"]:
        trainer.csv.write_text(state["results"], encoding="utf-8")
    set_random_state(state["random"])


def is_clone(trainer: Any) -> bool:
    """Whether it goes on from a checkpoint of another run."""
    attempt = trainer.attempt
    source = attempt.link.resume_from
    return source is not None and source.attempt.run_id != attempt.task.attempt.run_id


def _restore_optimizer(trainer: Any, saved: dict[str, Any]) -> None:
    groups = trainer.optimizer.param_groups
    for old, new in zip(saved["param_groups"], groups, strict=True):
        # the device of this attempt picks the kernel, not that of the last one
        for name in ("fused", "foreach", "capturable"):
            if name in new:
                old[name] = new[name]
    restore_under_own_rates(trainer.optimizer, saved)
    own_state(trainer.optimizer)


def _restore_criterion(trainer: Any, done: int) -> None:
    """The two-headed loss of yolo26 shifts its weights from head to head, epoch by epoch."""
    trainer.model.criterion = trainer.model.init_criterion()
    if hasattr(trainer.model.criterion, "update"):
        trainer.model.criterion.updates = done - 1
        trainer.model.criterion.update()


def _passes(trainer: Any, done: int, steps: int) -> list[int]:
    """Batches that each iterator of the train loader has given out after `done` epochs and steps.

    Closing mosaic discards the first iterator, if there was one, and begins another.
    """
    num_batches = len(trainer.train_loader)
    more, steps = divmod(steps, num_batches)
    done += more
    closing = trainer.args.close_mosaic
    closed = max(0, trainer.epochs - closing) if closing else None
    if closed is None or done < closed:
        return [done * num_batches + steps]
    return [closed * num_batches, (done - closed) * num_batches + steps]


def _replay(loader: Any, passes: list[int]) -> None:
    """Bring a fresh loader's generator to where that of the interrupted attempt was.

    Order is drawn lazily from the loader's own generator, so it is drawn again, without reading
    a picture. All but the last iterator of `passes` were discarded.
    """
    for count in passes[:-1]:
        if count:
            # a loader's iterator draws a seed for its processes before the first batch
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
            batches = iter(loader.batch_sampler)
            for _ in range(count):
                next(batches)
    if passes[-1]:
        skipping = _Skipping(loader.batch_sampler, passes[-1])
        # a DataLoader refuses to exchange its sampler; ultralytics' own loader does it like this
        object.__setattr__(loader, "batch_sampler", skipping)


class _Skipping:
    """A batch sampler whose first iterator leaves out the batches that were already trained."""

    def __init__(self, inner: Any, count: int) -> None:
        self.inner = inner
        self.count = count

    @property
    def sampler(self) -> Any:
        """What the loader takes its length from."""
        return self.inner.sampler

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.inner)
        while self.count:
            next(batches)
            self.count -= 1
        yield from batches


def _buffer(trainer: Any) -> list[int] | None:
    return getattr(trainer.train_loader.dataset, "buffer", None)


def _fill_buffer(trainer: Any, indices: list[int]) -> None:
    """Read again the pictures that mosaic draws from; reading appends each to the buffer."""
    buffer = _buffer(trainer)
    if buffer is not None:
        for index in indices:
            trainer.train_loader.dataset.load_image(index)


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's own: a safe load accepts nothing else."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.generic | np.ndarray) or (
        isinstance(value, torch.Tensor) and value.ndim == 0
    ):
        return value.item()
    return value
