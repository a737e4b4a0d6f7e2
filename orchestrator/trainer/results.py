"""What a finished run leaves in its folder: weights, results.csv and args.yaml, each whole or not."""

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

__all__ = ["write_args", "write_results", "write_weights"]


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
