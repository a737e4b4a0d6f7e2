"""Trains many detectors and classifiers at once on GPUs of mixed size."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator import sweep
    from orchestrator.client.access import Client, Run, RunRecord
    from orchestrator.client.submitting import submit
    from orchestrator.config.load import Config, load_config
    from orchestrator.errors import OrchestratorError
    from orchestrator.sweep import space
    from orchestrator.types import RunId, RunSpec, RunState, TrainSettings

__all__ = [
    "Client",
    "Config",
    "OrchestratorError",
    "Run",
    "RunId",
    "RunRecord",
    "RunSpec",
    "RunState",
    "TrainSettings",
    "__version__",
    "load_config",
    "space",
    "submit",
    "sweep",
]

__version__ = "0.1.0"

_HOMES = {
    "Client": "client.access",
    "Run": "client.access",
    "RunRecord": "client.access",
    "submit": "client.submitting",
    "Config": "config.load",
    "load_config": "config.load",
    "OrchestratorError": "errors",
    "RunId": "types",
    "RunSpec": "types",
    "RunState": "types",
    "TrainSettings": "types",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `orc --help` and every worker import this package.
    if name == "sweep":
        return importlib.import_module("orchestrator.sweep")
    if name == "space":
        return importlib.import_module("orchestrator.sweep.space")
    if name in _HOMES:
        return getattr(importlib.import_module(f"orchestrator.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
