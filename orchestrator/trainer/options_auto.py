"""Settings that `auto` leaves to a measurement, by trainer; imports no library."""

from collections.abc import Mapping

from orchestrator.errors import ConfigError
from orchestrator.types import Scalar

__all__ = ["AUTO_KEYS", "auto_names"]

AUTO_KEYS: Mapping[str, Mapping[str, Scalar]] = {
    "timm": {
        "channels_last": False,
        "compile": False,
        "pin_memory": True,
        "cache": "false",
        "workers": 8,
    },
    "yolo": {  # a compiled step cannot be cut, and ultralytics pins what it loads
        "channels_last": True,  # as ultralytics has it on a card; elsewhere it knows no other way
        "cache": "false",
        "workers": 8,
    },
}
"""What each trainer measures, in this order, and what holds until it is; workers are a limit."""


def auto_names(trainer: str, options: Mapping[str, Scalar]) -> tuple[str, ...]:
    """The settings that a run leaves to a measurement, in the order in which they are tried.

    Raises:
        ConfigError: E1103, one of them cannot be measured.
    """
    offered = AUTO_KEYS.get(trainer, {})
    text = options.get("auto", "")
    names = [name.strip() for name in str(text).split(",") if name.strip()]
    if unknown := sorted(set(names) - offered.keys()):
        raise ConfigError(
            f"auto is not offered for {', '.join(unknown)}",
            code="E1103",
            fix=(f"auto: some of {', '.join(offered)}" if offered else "leave auto out",),
        )
    return tuple(name for name in offered if name in names)
