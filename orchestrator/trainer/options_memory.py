"""What a config may say about memory while a run trains, for both trainers; imports no library."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.types import Scalar

__all__ = ["MEMORY_KEYS", "MemoryOptions", "memory_options"]

MEMORY_KEYS: Mapping[str, str] = {
    "memory_adapt": "let the micro-batch grow again after it was cut; it is always cut when needed",
    "memory_target": "part of the run's share that a grown micro-batch may use, 0.1 to 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """How the micro-batch follows the memory.

    `target` is a part of the run's budget, its share of the card, not of the card: room that
    other runs were given is never grown into. Where others took more than theirs, it is a part of
    what they leave.
    """

    adapt: bool = True
    target: float = 0.85


def memory_options(options: Mapping[str, Scalar]) -> tuple[MemoryOptions, dict[str, Scalar]]:
    """Take the keys about memory out of a run's options.

    Returns:
        What they say, and the other options.

    Raises:
        ConfigError: E1102 a value of another type, E1103 a number out of its range.
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
    return MemoryOptions(adapt=adapt, target=float(target)), rest


def _wrong(code: str, key: str, what: str) -> ConfigError:
    return ConfigError(f"{key} {what}", code=code, fix=(f"{key}: {MEMORY_KEYS[key]}",))
