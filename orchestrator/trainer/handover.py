"""What one run hands to the next: weights that its best epoch was judged by, put into a model."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from orchestrator.errors import DataError
from orchestrator.trainer.randomness import load_state
from orchestrator.types import CheckpointRef

__all__ = ["best_classifier", "best_yolo", "put_weights"]


def best_classifier(ref: CheckpointRef, classes: Sequence[str]) -> dict[str, Tensor]:
    """The weights in a classifier's checkpoint: the averaged ones, if there are any.

    Raises:
        DataError: E3112, it cannot be read, or is of other classes.
    """
    state = _read(ref)
    if list(state["classes"]) != list(classes):
        raise DataError(
            f"run {ref.attempt.run_id} hands over weights for other classes",
            code="E3112",
            why=(f"its: {', '.join(state['classes'])}", f"here: {', '.join(classes)}"),
            fix=("train all stages on the same class folders",),
        )
    weights: dict[str, Tensor] = state["learner"]["ema"] or state["learner"]["model"]
    return weights


def best_yolo(ref: CheckpointRef) -> dict[str, Tensor]:
    """The averaged weights in a YOLO checkpoint.

    Raises:
        DataError: E3112, it cannot be read.
    """
    weights: dict[str, Tensor] = _read(ref)["ema"]
    return weights


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], ref: CheckpointRef) -> None:
    """Load every tensor into a model of the same network; nothing is left out or guessed.

    Raises:
        DataError: E3112, a tensor is missing, left over, or of another shape.
    """
    own = model.state_dict()
    strange = sorted(k for k in weights if k not in own or weights[k].shape != own[k].shape)
    missing = sorted(own.keys() - weights.keys())
    if strange or missing:
        raise DataError(
            f"run {ref.attempt.run_id} hands over weights that do not fit this network",
            code="E3112",
            why=(
                f"{len(strange)} tensors do not fit: {', '.join(strange[:3])}",
                f"{len(missing)} are missing: {', '.join(missing[:3])}",
            ),
            fix=("all stages need one network; some have a fixed imgsz",),
        )
    model.load_state_dict(dict(weights))


def _read(ref: CheckpointRef) -> dict[str, Any]:
    try:
        with Path(ref.path).open("rb") as file:
            return load_state(file)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"the checkpoint {ref.path} that run {ref.attempt.run_id} hands over cannot be read",
            code="E3112",
            why=(str(error).splitlines()[0] if str(error) else type(error).__name__,),
            fix=(f"put it back, or train {ref.attempt.run_id} again",),
        ) from error
