"""A CPU that poses as a card: real training, held to the card's budget by counting tensors."""

import gc
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestrator.device.live import LiveBytes, StorageEvent
from orchestrator.device.oom import is_card_out_of_memory
from orchestrator.device.resizing import resizes_told
from orchestrator.types import Bytes, Card, DeviceMemory

__all__ = ["EmulatedDevice"]

_MAX_ROWS = 200  # operators in a snapshot; a model has fewer


class EmulatedDevice:
    """Runs on the CPU; inside `session` the live tensors may not exceed the budget.

    What counts as the card's memory is `LiveBytes`'s to say. The whole budget is for tensors:
    what a real card also holds (CUDA context, cuBLAS and cuDNN workspaces, fragmentation) is
    not made up here, so a run that fits an emulated card needs that much more on the real one.
    Speed is the CPU's.

    Args:
        card: The card it poses as; another process's share of it is `card.foreign_bytes`.
        budget_bytes: What this process may hold, at most the card's memory.
    """

    def __init__(self, card: Card, budget_bytes: Bytes) -> None:
        if not 0 < budget_bytes <= card.memory_bytes:
            raise ValueError(
                f"a budget of {budget_bytes} bytes on a card of {card.memory_bytes} bytes"
            )
        self._card = card
        self._share_bytes = budget_bytes
        self._foreign_bytes = card.foreign_bytes
        self._live = LiveBytes(limit_bytes=budget_bytes, name=self.name)

    @property
    def torch_device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def name(self) -> str:
        """The card's name and that it is emulated."""
        return f"{self._card.name} (emulated)"

    def memory(self) -> DeviceMemory:
        """The card's memory with this process's live tensors; other emulated workers are unseen."""
        foreign = self._foreign_bytes
        return DeviceMemory(
            total_bytes=self._card.memory_bytes,
            used_bytes=foreign + self._live.live_bytes,
            foreign_bytes=foreign,
        )

    @property
    def budget_bytes(self) -> Bytes:
        """What live tensors may hold now: the share, or less where others hold part of it."""
        return self._live.limit_bytes or 0

    def set_foreign(self, num_bytes: Bytes) -> None:
        """Say what other processes hold from now on, as if one had come or gone.

        The next allocation feels it. A card that is full leaves this process one byte.
        """
        if not 0 <= num_bytes <= self._card.memory_bytes:
            raise ValueError(f"{num_bytes} bytes on a card of {self._card.memory_bytes} bytes")
        self._foreign_bytes = num_bytes
        room = max(1, self._card.memory_bytes - num_bytes)
        self._live.limit_bytes = min(self._share_bytes, room)

    @contextmanager
    def session(self) -> Iterator[None]:
        """While inside, tensors are counted and held to the budget.

        Raises:
            torch.OutOfMemoryError: From the operator whose result does not fit.
        """
        with self._live, resizes_told(self._live):
            yield

    def host(self) -> AbstractContextManager[None]:
        """Inside a session: what is made here is host memory, as in a DataLoader."""
        return self._live.host()

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak."""
        self._live.reset_peak()

    def peak_bytes(self) -> Bytes:
        """The most bytes of live tensors at one time since `reset_peak`."""
        return self._live.peak_bytes

    def live_bytes(self) -> Bytes:
        """Bytes of live tensors."""
        return self._live.live_bytes

    def reserved_bytes(self) -> Bytes:
        """The same: no cache is made up."""
        return self._live.live_bytes

    def peak_reserved_bytes(self) -> Bytes:
        """The same as `peak_bytes`: no cache is made up."""
        return self._live.peak_bytes

    def snapshot(self) -> tuple[str, bytes]:
        """JSON: what was alive, by operator, when memory last ran out, the most bytes first."""
        rows = self._live.refused or self._live.rows()
        content = {
            "card": self.name,
            "budget_bytes": self.budget_bytes,
            "live": [row._asdict() for row in rows[:_MAX_ROWS]],
        }
        return ".json", json.dumps(content, indent=1).encode()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when the error means that the card, not the host, ran out of memory."""
        return is_card_out_of_memory(error)

    def release(self) -> None:
        """Collect cycles, in which tensors can hang after an error."""
        gc.collect()

    def keep_events(self) -> list[StorageEvent]:
        """The births and deaths of storages from now on, in a list that goes on growing."""
        events: list[StorageEvent] = []
        self._live.events = events
        return events
