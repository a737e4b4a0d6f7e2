"""What is asked of the GPU driver: the questions as a Protocol, and NVML's answers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import pynvml

from orchestrator.types import Bytes

__all__ = ["DriverError", "DriverReader", "GpuProcess", "NvmlReader"]

_T = TypeVar("_T")


class DriverError(Exception):
    """NVML refused; `code` is its return value (`pynvml.NVML_ERROR_*`)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class GpuProcess(NamedTuple):
    """A process on a card. `num_bytes` None: the driver does not tell (Windows, permissions)."""

    pid: int
    num_bytes: Bytes | None


class DriverReader(Protocol):
    """The few questions put to the driver; each may raise `DriverError`.

    An index counts the cards of the machine in the order of the PCI bus, whatever
    `CUDA_VISIBLE_DEVICES` says. A memory value that the driver does not have is None.
    """

    def count(self) -> int:
        """Cards of the machine."""
        ...

    def name(self, index: int) -> str:
        """As the driver names the card, for instance "NVIDIA GeForce RTX 2060"."""
        ...

    def uuid(self, index: int) -> str:
        """The UUID that `CUDA_VISIBLE_DEVICES` understands, with its "GPU-" in front."""
        ...

    def is_mig(self, index: int) -> bool:
        """True when the card is cut into MIG instances."""
        ...

    def memory(self, index: int) -> tuple[Bytes | None, Bytes | None]:
        """Total and used bytes."""
        ...

    def processes(self, index: int) -> Sequence[GpuProcess]:
        """Everything that computes or draws on the card."""
        ...


class NvmlReader:
    """Answers from NVIDIA's management library, initialised once."""

    def __init__(self) -> None:
        _call(pynvml.nvmlInit)

    def count(self) -> int:
        """Cards of the machine."""
        return int(_call(pynvml.nvmlDeviceGetCount))

    def name(self, index: int) -> str:
        """The product name."""
        return _text(_call(pynvml.nvmlDeviceGetName, self._handle(index)))

    def uuid(self, index: int) -> str:
        """The UUID that `CUDA_VISIBLE_DEVICES` understands."""
        return _text(_call(pynvml.nvmlDeviceGetUUID, self._handle(index)))

    def is_mig(self, index: int) -> bool:
        """True when MIG is on; cards without MIG answer "not supported"."""
        try:
            current, _pending = _call(pynvml.nvmlDeviceGetMigMode, self._handle(index))
        except DriverError as error:
            if error.code in (
                pynvml.NVML_ERROR_NOT_SUPPORTED,
                pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            ):
                return False
            raise
        return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)

    def memory(self, index: int) -> tuple[Bytes | None, Bytes | None]:
        """Total and used bytes; None where memory is shared with the host and not counted."""
        try:
            info = _call(pynvml.nvmlDeviceGetMemoryInfo, self._handle(index))
        except DriverError as error:
            if error.code == pynvml.NVML_ERROR_NOT_SUPPORTED:
                return None, None
            raise
        return _known(info.total), _known(info.used)

    def processes(self, index: int) -> Sequence[GpuProcess]:
        """Compute and graphics processes, each once."""
        found: dict[int, Bytes | None] = {}
        for ask in (
            pynvml.nvmlDeviceGetComputeRunningProcesses,
            pynvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for process in _call(ask, self._handle(index)):
                found[int(process.pid)] = _known(process.usedGpuMemory)
        return tuple(GpuProcess(pid, num_bytes) for pid, num_bytes in found.items())

    def _handle(self, index: int) -> Any:
        return _call(pynvml.nvmlDeviceGetHandleByIndex, index)


def _call(ask: Callable[..., _T], *args: object) -> _T:
    try:
        return ask(*args)
    except pynvml.NVMLError as error:
        raise DriverError(error.value, str(error)) from None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _known(value: object) -> Bytes | None:
    # NVML says "not available" with the largest number of 64 bits.
    if not isinstance(value, int) or value >= (1 << 64) - 1:
        return None
    return value
