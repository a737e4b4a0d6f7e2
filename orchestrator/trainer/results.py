"""What a finished run leaves in its folder: weights, results.csv, args.yaml; each whole or not."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from orchestrator.errors import StoreError
from orchestrator.trainer.randomness import load_state

__all__ = ["read_weights", "write_args", "write_results", "write_weights"]


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights that a checkpoint's epoch was judged by: the averaged ones, if there are any.

    Raises:
        StoreError: The file is gone.
    """
    try:
        with checkpoint.open("rb") as file:
            learner = load_state(file)["learner"]
    except OSError as error:
        raise StoreError(
            "the checkpoint of the best epoch is gone",
            code="E5110",
            why=(f"{checkpoint}: {error.strerror}",),
            fix=("put the run's checkpoints back and resume it",),
        ) from error
    weights: dict[str, Tensor] = learner["ema"] or learner["model"]
    return weights


def write_weights(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `path` (.pt, for `torch.load(weights_only=True)`) and its .safetensors twin.

    Args:
        path: Ends in .pt.
        state: Tensors by name.
        about: Plain values that tell what the tensors are of: model, classes, imgsz, ...
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    buffer = io.BytesIO()
    torch.save({**about, "state_dict": tensors}, buffer)
    _write(path, buffer.getvalue())
    metadata = {key: json.dumps(value) for key, value in about.items()}
    _write(path.with_suffix(".safetensors"), save(tensors, metadata))


def write_results(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write one line per epoch: epoch, time (seconds since the start), then the metrics."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    _write(path, text.getvalue().encode())


def write_args(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write the settings that the run had, defaults included."""
    _write(path, yaml.safe_dump(dict(arguments), sort_keys=False).encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
