"""Settings of a classifier that `auto` leaves to a measurement; imports no library."""

from collections.abc import Mapping

from orchestrator.errors import ConfigError
from orchestrator.types import Scalar

__all__ = ["AUTO_KEYS", "auto_names"]

AUTO_KEYS: Mapping[str, Scalar] = {
    "channels_last": False,
    "compile": False,
    "pin_memory": True,
    "cache": "false",
    "workers": 8,
}
"""What may be measured, in this order, and what holds until it is; workers are a limit."""


def auto_names(options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The settings that a run leaves to a measurement, in the order in which they are tried.

    Raises:
        ConfigError: E1103, one of them cannot be measured.
    """
    text = options.get("auto", "")
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    if unknown := sorted(set(names) - AUTO_KEYS.keys()):
        raise ConfigError(
            f"auto is not offered for {', '.join(unknown)}",
            code="E1103",
            fix=(f"auto: some of {', '.join(AUTO_KEYS)}",),
        )
    return tuple(name for name in AUTO_KEYS if name in names)
