"""A process that tries settings of a run before it begins, and tells one line for each."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from orchestrator.types import Scalar

__all__ = ["Found", "Way", "main", "tried"]

Found: TypeAlias = Iterator[tuple[str, Scalar, str]]
"""Name, value and what was measured, one after the other."""

Way: TypeAlias = Callable[[], tuple[Scalar, str]]
"""Tries one setting: its value, and what was measured."""


def tried(names: Sequence[str], ways: Mapping[str, Way], found: dict[str, Scalar]) -> Found:
    """Try settings in their order; what was found is there for the ways that come later."""
    for name in names:
        value, told = ways[name]()
        found[name] = value
        yield name, value, told


def main(order: str) -> None:
    """Print a line of JSON for each setting, as soon as it is decided."""
    told = json.loads(order)
    budget = told.get("budget_bytes")
    if told["device"].startswith("cuda") and budget:
        total = torch.cuda.get_device_properties(told["device"]).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), told["device"])
    for name, value, why in _results(told):
        sys.stdout.write(json.dumps({"name": name, "value": value, "told": why}) + "\n")
        sys.stdout.flush()


def _results(order: dict[str, Any]) -> Found:
    if order["trainer"] == "yolo":
        from orchestrator.trainer.trial_yolo import results
    else:
        from orchestrator.trainer.trial_timm import results
    return results(order)


if __name__ == "__main__":
    main(sys.argv[1])
