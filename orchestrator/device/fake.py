"""A Device that is a ledger of bytes with a capacity; nothing computes on it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestrator.types import Bytes, DeviceMemory

__all__ = ["FakeDevice", "FakeOutOfMemoryError"]


class FakeOutOfMemoryError(MemoryError):
    """More bytes were asked for than the fake card has left."""


class FakeDevice:
    """Counts what is allocated on it, and refuses what does not fit.

    Args:
        capacity_bytes: Bytes of the card, or of the share of it.
        foreign_bytes: Bytes of the capacity that other processes are said to hold.
    """

    def __init__(
        self, capacity_bytes: Bytes, *, name: str = "fake card", foreign_bytes: Bytes = 0
    ) -> None:
        if not 0 <= foreign_bytes <= capacity_bytes:
            raise ValueError(f"foreign_bytes {foreign_bytes} is not within 0..{capacity_bytes}")
        self._capacity_bytes = capacity_bytes
        self._foreign_bytes = foreign_bytes
        self._name = name
        self._held_bytes = 0
        self._peak_bytes = 0

    @property
    def torch_device(self) -> str:
        """Always "cpu"; there is no card."""
        return "cpu"

    @property
    def name(self) -> str:
        """For people; says that the card is a fake."""
        return f"{self._name} (fake)"

    def memory(self) -> DeviceMemory:
        """The ledger's totals."""
        return DeviceMemory(
            total_bytes=self._capacity_bytes,
            used_bytes=self._foreign_bytes + self._held_bytes,
            foreign_bytes=self._foreign_bytes,
        )

    def session(self) -> AbstractContextManager[None]:
        """While inside, allocations are counted; what is left behind is freed at the end."""
        return self._session()

    @contextmanager
    def _session(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._held_bytes = 0

    def allocate(self, num_bytes: Bytes) -> None:
        """Hold bytes.

        Raises:
            FakeOutOfMemoryError: the card has fewer bytes left; nothing is held then.
        """
        free = self.memory().free_bytes
        if num_bytes > free:
            raise FakeOutOfMemoryError(f"asked for {num_bytes} bytes, {free} are free")
        self._held_bytes += num_bytes
        self._peak_bytes = max(self._peak_bytes, self._held_bytes)

    def free(self, num_bytes: Bytes) -> None:
        """Give back bytes that are held."""
        if num_bytes > self._held_bytes:
            raise ValueError(f"cannot free {num_bytes} bytes: {self._held_bytes} are held")
        self._held_bytes -= num_bytes

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak."""
        self._peak_bytes = self._held_bytes

    def peak_bytes(self) -> Bytes:
        """The most bytes held at one time since `reset_peak`."""
        return self._peak_bytes

    @property
    def budget_bytes(self) -> Bytes:
        """What may be held: the capacity without what others hold."""
        return self._capacity_bytes - self._foreign_bytes

    def live_bytes(self) -> Bytes:
        """Bytes held."""
        return self._held_bytes

    def reserved_bytes(self) -> Bytes:
        """The same: nothing is cached."""
        return self._held_bytes

    def peak_reserved_bytes(self) -> Bytes:
        """The same as `peak_bytes`."""
        return self._peak_bytes

    def snapshot(self) -> tuple[str, bytes]:
        """The ledger in words."""
        return ".txt", f"{self._held_bytes} of {self._capacity_bytes} bytes\n".encode()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True for the error that `allocate` raises."""
        return isinstance(error, FakeOutOfMemoryError)

    def release(self) -> None:
        """Nothing is cached, so nothing is given back."""
