"""The model that a YOLO training begins with, kept for the next training of the same process."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator.trainer.randomness import host_random_state, set_random_state
from orchestrator.types import Bytes

__all__ = ["begin"]

log = logging.getLogger(__name__)

_MOST_BYTES: Bytes = 24 << 20
"""Of a file of weights whose model is kept: in memory it has twice that, being fp32 and not fp16.

The models up to size s are smaller. Those that are larger are not trained for seconds.
"""


@dataclass(frozen=True, slots=True)
class _Kept:
    key: str
    model: Any  # never trained: who begins with it gets a copy
    chance: Mapping[str, Any]  # as building it left the generators


_KEPT: list[_Kept] = []  # one at most


def begin(trainer: Any, build: Callable[[], Any]) -> Any:
    """Set `trainer.model` up: built, or copied from what was built before in the same way.

    Either leaves the same numbers in the model and the same state of chance. Reading a file of
    weights safely and finding a model's strides take a tenth of a short training.

    Args:
        trainer: Of ultralytics, and alone: not one of a gang.
        build: Its own `setup_model`.

    Returns:
        What `build` does; None for a copy, as where there is nothing that ultralytics resumes.
    """
    key = _key(trainer)
    if _KEPT and _KEPT[0].key == key:
        trainer.model = deepcopy(_KEPT[0].model)
        set_random_state(_KEPT[0].chance)
        log.info("the model begins as the one before it in this process, from the same weights")
        return None
    _KEPT.clear()
    found = build()
    if key is not None:
        _KEPT.append(_Kept(key, deepcopy(trainer.model), host_random_state()))
    return found


def _key(trainer: Any) -> str | None:
    """All that building reads; None for what is not kept."""
    args, data, path = trainer.args, trainer.data, Path(str(trainer.model))
    if path.suffix.lower() != ".pt" or isinstance(args.pretrained, str) or trainer.resume:
        return None
    stat = path.stat()
    if stat.st_size > _MOST_BYTES:
        return None
    file = (str(path.absolute()), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    options = ("task", "pretrained", "dropout", "cls_remap", "distill_model", "quantize")
    given = [repr(getattr(args, name, None)) for name in options]
    known = [repr(data.get(name)) for name in ("nc", "channels", "names", "kpt_shape")]
    return repr((file, given, known, str(torch.get_default_dtype()), _digest(host_random_state())))


def _digest(value: Any) -> str:
    """Of numbers, texts, tensors and containers of them."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.numpy().tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return repr([(name, _digest(item)) for name, item in value.items()])
    if isinstance(value, list | tuple):
        return repr([_digest(item) for item in value])
    return repr(value)
