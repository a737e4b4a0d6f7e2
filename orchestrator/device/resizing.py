"""Tells a tracker of live tensors of storages that are emptied and filled in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from orchestrator.device.live import LiveBytes

__all__ = ["resizes_told"]


@contextmanager
def resizes_told(live: LiveBytes) -> Iterator[None]:
    """While inside, the tracker hears of every `UntypedStorage.resize_`, which is no operator.

    So PyTorch gives the memory of whole weights back when the ranks of a gang have parts of them.

    Raises:
        torch.OutOfMemoryError: From the call that would go beyond the tracker's limit.
    """
    kind: Any = torch.UntypedStorage
    resize = kind.resize_

    def told(storage: torch.UntypedStorage, num_bytes: int) -> Any:
        found = resize(storage, num_bytes)
        live.resized(storage)
        return found

    kind.resize_ = told
    try:
        yield
    finally:
        kind.resize_ = resize
