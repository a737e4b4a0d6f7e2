"""Sweeps: search over batch, accumulation and hyperparameters under a memory limit."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.sweep.api import best, results, resume, run, stop
    from orchestrator.sweep.records import SweepRecord, every_sweep, read_sweep
    from orchestrator.sweep.tune import Constrained, constrained, trainable

__all__ = [
    "Constrained",
    "SweepRecord",
    "best",
    "constrained",
    "every_sweep",
    "read_sweep",
    "results",
    "resume",
    "run",
    "stop",
    "trainable",
]

_HOMES = {
    "Constrained": "tune",
    "SweepRecord": "records",
    "best": "api",
    "constrained": "tune",
    "every_sweep": "records",
    "read_sweep": "records",
    "results": "api",
    "resume": "api",
    "run": "api",
    "stop": "api",
    "trainable": "tune",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: Ray Tune takes seconds.
    if name in _HOMES:
        return getattr(importlib.import_module(f"orchestrator.sweep.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'orchestrator.sweep' has no attribute {name!r}")
