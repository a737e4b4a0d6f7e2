"""What a config may say about the memory of a training, for both trainers; imports no library."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.plan.ladder import DEFAULT_LADDER, Rung
from orchestrator.plan.workload import OptimizerState
from orchestrator.types import Scalar

__all__ = ["MEMORY_KEYS", "MemoryOptions", "can_8bit", "memory_options"]

MEMORY_KEYS: Mapping[str, str] = {
    "memory_adapt": "let the micro-batch grow again after it was cut; it is always cut when needed",
    "memory_target": "part of the run's share that a grown micro-batch may use, 0.1 to 1",
    "grad_checkpointing": "compute layers again in the backward pass instead of keeping them",
    "optimizer_state": "where the optimizer keeps its state: card, host, or 8bit (bitsandbytes)",
    "memory_ladder": "what may be given up when nothing is left to cut, in order: `amp, imgsz`",
    "memory_least_imgsz": "smallest pictures that the rung imgsz may go to; 0 allows no smaller",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """How the micro-batch follows the memory, and what is given up for it.

    `target` is a part of the run's budget, its share of the card, not of the card: room that
    other runs were given is never grown into. Where others took more than theirs, it is a part of
    what they leave.
    """

    adapt: bool = True
    target: float = 0.85
    grad_checkpointing: bool = False
    optimizer_state: OptimizerState = OptimizerState.CARD
    ladder: tuple[Rung, ...] = DEFAULT_LADDER
    least_imgsz: int | None = None


def can_8bit() -> bool:
    """True where bitsandbytes is installed, whose optimizers keep their state in 8 bits."""
    return importlib.util.find_spec("bitsandbytes") is not None


def memory_options(options: Mapping[str, Scalar]) -> tuple[MemoryOptions, dict[str, Scalar]]:
    """Take the keys about memory out of a run's options.

    Returns:
        What they say, and the other options.

    Raises:
        ConfigError: E1102 a value of another type, E1103 one that is not allowed.
    """
    rest = {key: value for key, value in options.items() if key not in MEMORY_KEYS}
    adapt = options.get("memory_adapt", True)
    if not isinstance(adapt, bool):
        raise _wrong("E1102", "memory_adapt", f"must be true or false, not {adapt!r}")
    target = options.get("memory_target", 0.85)
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise _wrong("E1102", "memory_target", f"must be a number, not {target!r}")
    if not 0.1 <= target <= 1.0:
        raise _wrong("E1103", "memory_target", f"is {target:g}, outside 0.1 to 1")
    checkpoints = options.get("grad_checkpointing", False)
    if not isinstance(checkpoints, bool):
        raise _wrong("E1102", "grad_checkpointing", f"must be true or false, not {checkpoints!r}")
    place = options.get("optimizer_state", OptimizerState.CARD.value)
    if place not in tuple(OptimizerState):
        raise _wrong("E1103", "optimizer_state", f"is {place!r}")
    found = MemoryOptions(
        adapt=adapt,
        target=float(target),
        grad_checkpointing=checkpoints,
        optimizer_state=OptimizerState(str(place)),
        ladder=_ladder(options.get("memory_ladder", ", ".join(DEFAULT_LADDER))),
        least_imgsz=_least(options.get("memory_least_imgsz", 0)),
    )
    return found, rest


def _ladder(text: Scalar) -> tuple[Rung, ...]:
    """Rungs by their names; an empty text allows none."""
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Rung)]
    if not isinstance(text, str):
        raise _wrong("E1102", "memory_ladder", f"must be a text, not {text!r}")
    if unknown or len(set(names)) < len(names):
        known = ", ".join(rung for rung in Rung if rung is not Rung.MODEL)
        raise _wrong("E1103", "memory_ladder", f"is {text!r}; each once: {known}")
    return tuple(Rung(name) for name in names)


def _least(size: Scalar) -> int | None:
    if isinstance(size, bool) or not isinstance(size, int):
        raise _wrong("E1102", "memory_least_imgsz", f"must be a whole number, not {size!r}")
    if size < 0:
        raise _wrong("E1103", "memory_least_imgsz", f"is {size}")
    return size or None


def _wrong(code: str, key: str, what: str) -> ConfigError:
    return ConfigError(f"{key} {what}", code=code, fix=(f"{key}: {MEMORY_KEYS[key]}",))
