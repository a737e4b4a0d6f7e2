"""What both trainers are told in our own keys: memory, gangs, saving; imports no library."""

from collections.abc import Mapping

from orchestrator.trainer.options_ddp import DDP_KEYS, ddp_options
from orchestrator.trainer.options_memory import MEMORY_KEYS, memory_options
from orchestrator.trainer.options_save import SAVE_KEYS, save_seconds
from orchestrator.types import Scalar

__all__ = ["SHARED_KEYS", "without_shared"]

SHARED_KEYS: Mapping[str, str] = {**MEMORY_KEYS, **DDP_KEYS, **SAVE_KEYS}
"""Each key, and what it does."""


def without_shared(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A run's options without those keys, once their values are checked.

    Raises:
        ConfigError: E1102 a value of another type, E1103 one that is not allowed.
    """
    _, rest = memory_options(options)
    _, rest = ddp_options(rest)
    _, rest = save_seconds(rest)
    return rest
