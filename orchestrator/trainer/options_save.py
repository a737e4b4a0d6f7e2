"""What a config may say about saving within an epoch, for both trainers; imports no library."""

import math
from collections.abc import Mapping

from orchestrator.errors import ConfigError
from orchestrator.types import Scalar, Seconds

__all__ = ["SAVE_KEYS", "SAVE_MINUTES", "save_seconds"]

SAVE_KEYS: Mapping[str, str] = {
    "save_minutes": "minutes from save to save within an epoch; 0 saves where it is left alone",
}
SAVE_MINUTES = 15.0
"""A run that is killed loses at most so many; writing takes seconds."""


def save_seconds(options: Mapping[str, Scalar]) -> tuple[Seconds, dict[str, Scalar]]:
    """Take the keys about saving out of a run's options.

    Returns:
        Seconds of training from save to save within an epoch, 0 for none, and the other options.

    Raises:
        ConfigError: E1102 a value of another type, E1103 one that is not allowed.
    """
    rest = {key: value for key, value in options.items() if key not in SAVE_KEYS}
    minutes = options.get("save_minutes", SAVE_MINUTES)
    if isinstance(minutes, bool) or not isinstance(minutes, int | float):
        raise _wrong("E1102", f"must be a number, not {minutes!r}")
    if not 0 <= minutes < math.inf:
        raise _wrong("E1103", f"is {minutes:g}, below 0 or without end")
    return 60.0 * minutes, rest


def _wrong(code: str, what: str) -> ConfigError:
    return ConfigError(
        f"save_minutes {what}", code=code, fix=(f"save_minutes: {SAVE_KEYS['save_minutes']}",)
    )
