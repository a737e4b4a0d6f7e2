"""Weights of a YOLO model as people get them: fp16, whole or not at all, the best not too often."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import torch

from orchestrator.types import Seconds

__all__ = ["BestWeights", "copy_weights", "write_weights"]

_FINISHED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # by averaged model

_LEAST_SECONDS: Seconds = 60.0
"""Between two times that the best weights are written.

Pickling a model of a few megabytes takes as long as training it for a tenth of a short epoch, and
nearly every epoch of a short training is the best so far. People look at a file less often.
"""


class BestWeights:
    """The file of the best weights, written anew at most once a minute unless it has to be.

    What is owed is kept in memory: the numbers of a later epoch do not change it.

    Args:
        file: Where people look.
        clock: Tells seconds, of which only differences count.
    """

    def __init__(self, file: Path, *, clock: Callable[[], Seconds] = time.monotonic) -> None:
        self.file = file
        self._clock = clock
        self._written_at = clock()
        self._owed: dict[str, Any] | None = None

    @property
    def is_owed(self) -> bool:
        """Whether the file is not yet that of the best epoch."""
        return self._owed is not None

    def take(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        """Take over the averaged weights of the best epoch; written now if it is time to."""
        self._owed = _content(trainer, metrics)
        if self._clock() - self._written_at >= _LEAST_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is owed. Call it before other weights of the same trainer are written."""
        if self._owed is not None:
            _write(self._owed, self.file)
            self._owed, self._written_at = None, self._clock()


def write_weights(trainer: Any, file: Path, metrics: Mapping[str, float]) -> None:
    """Write the averaged weights as ultralytics' own finished `best.pt` is: fp16, no optimizer.

    The file appears whole or not at all.
    """
    _write(_content(trainer, metrics), file)


def _content(trainer: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
    from ultralytics import __version__

    return {
        "date": datetime.now(UTC).isoformat(),
        "version": __version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "epoch": -1,
        "best_fitness": None,
        "model": _finished(trainer.ema.ema),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": dict(vars(trainer.args)),
        "train_metrics": dict(metrics),
    }


def _write(content: Mapping[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with _appearing(file) as stream:
        torch.save(content, stream)


def copy_weights(source: Path, file: Path) -> None:
    """Let the weights of one file be those of another, which appears whole or not at all."""
    with source.open("rb") as given, _appearing(file) as stream:
        shutil.copyfileobj(given, stream)


@contextmanager
def _appearing(file: Path) -> Iterator[BinaryIO]:
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _finished(average: Any) -> Any:
    """The averaged model as it is given to people; made once, and filled with its numbers anew."""
    known = _FINISHED.get(average)
    if known is not None:
        with torch.no_grad():
            for old, new in zip(_numbers(known), _numbers(average), strict=True):
                old.copy_(new)
        return known
    model = _on_host(average).to(memory_format=torch.contiguous_format).half().cpu()
    model.criterion = None
    if hasattr(model, "args"):  # a classifier has none
        model.args = dict(model.args)
    for parameter in model.parameters():
        parameter.requires_grad = False
    _FINISHED[average] = model
    return model


def _numbers(model: Any) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _on_host(model: Any) -> Any:
    """A copy whose weights are made in the host's memory: a full card has no room for a second."""
    memo: dict[int, object] = {
        id(tensor): torch.nn.Parameter(tensor.detach().to("cpu", copy=True), requires_grad=False)
        for tensor in model.parameters()
    }
    memo |= {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in model.buffers()}
    return deepcopy(model, memo)
