"""The CPU as itself, without a limit, for runs that ask for `device: cpu`."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import psutil

from orchestrator.device.live import LiveBytes
from orchestrator.device.oom import is_card_out_of_memory, is_host_out_of_memory
from orchestrator.types import Bytes, DeviceMemory

__all__ = ["CpuDevice"]


class CpuDevice:
    """Computes in host memory; nothing is limited.

    Args:
        measures_peak: Whether `session` counts live tensors for `peak_bytes`. Counting costs a
            few microseconds an operator, so it is off unless asked for.
    """

    def __init__(self, *, measures_peak: bool = False) -> None:
        self._live = LiveBytes(name="host") if measures_peak else None

    @property
    def torch_device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    @property
    def name(self) -> str:
        """Always "CPU"."""
        return "CPU"

    def memory(self) -> DeviceMemory:
        """The host's memory; foreign is what is in use beyond this process."""
        host = psutil.virtual_memory()
        used = host.total - host.available
        return DeviceMemory(
            total_bytes=host.total,
            used_bytes=used,
            foreign_bytes=max(0, used - psutil.Process().memory_info().rss),
        )

    @contextmanager
    def session(self) -> Iterator[None]:
        """Limits nothing; counts live tensors if the device measures its peak."""
        with nullcontext() if self._live is None else self._live:
            yield

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak."""
        if self._live is not None:
            self._live.reset_peak()

    def peak_bytes(self) -> Bytes:
        """The most bytes of live tensors at one time; 0 when they are not counted."""
        return 0 if self._live is None else self._live.peak_bytes

    @property
    def budget_bytes(self) -> None:
        """None: nothing is limited."""
        return

    def live_bytes(self) -> Bytes:
        """Bytes of live tensors; 0 when they are not counted."""
        return 0 if self._live is None else self._live.live_bytes

    def reserved_bytes(self) -> Bytes:
        """The same: the host keeps no cache that is known of."""
        return self.live_bytes()

    def peak_reserved_bytes(self) -> Bytes:
        """The same as `peak_bytes`."""
        return self.peak_bytes()

    def snapshot(self) -> tuple[str, bytes]:
        """What the host has left, in words."""
        return ".txt", f"{psutil.virtual_memory()}\n".encode()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when the host could not give the memory that was asked for."""
        return is_host_out_of_memory(error) or is_card_out_of_memory(error)

    def release(self) -> None:
        """Collect cycles, in which tensors can hang after an error."""
        gc.collect()
