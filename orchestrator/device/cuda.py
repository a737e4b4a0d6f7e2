"""A real card: torch held to a budget, the driver's view of who else is there."""

import gc
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.device import nvml
from orchestrator.device.oom import is_card_out_of_memory
from orchestrator.errors import NoDeviceError
from orchestrator.types import Bytes, Card, DeviceMemory

__all__ = ["CudaDevice"]

_MAX_SNAPSHOT = 32 << 20  # bytes; what is larger is told as a summary in words


class CudaDevice:
    """One GPU, or a share of it, through CUDA; never falls back to the CPU.

    The budget binds PyTorch's caching allocator, that is `torch.cuda.memory_reserved`. The CUDA
    context (0.3 to 0.5 GiB a process) is outside of it: pytorch issue 107667. A budget larger than
    what CUDA offers on the card binds nothing beyond the card.

    Args:
        card: The card; found among the visible ones by its UUID, by being the only one, or by
            its index, in this order.
        budget_bytes: What PyTorch may reserve on it.

    Raises:
        NoDeviceError: E2010, torch sees no such card.
    """

    def __init__(self, card: Card, budget_bytes: Bytes) -> None:
        if budget_bytes <= 0:
            raise ValueError(f"a budget of {budget_bytes} bytes")
        _require_cuda()
        self._card = card
        self._index = _visible_index(card)
        self._budget_bytes = budget_bytes

    @property
    def torch_device(self) -> str:
        """For instance "cuda:0"."""
        return f"cuda:{self._index}"

    @property
    def name(self) -> str:
        """As the driver names the card."""
        return self._card.name

    def memory(self) -> DeviceMemory:
        """The card's memory by NVML; foreign is what processes other than ours hold.

        Raises:
            NoDeviceError: NVML does not answer for the card.
        """
        return nvml.card_memory(self._card.uuid or self._card.index)

    @contextmanager
    def session(self) -> Iterator[None]:
        """While inside, PyTorch's reserved memory on the card stays within the budget.

        Raises:
            torch.OutOfMemoryError: From the allocation that goes beyond it.
        """
        total = torch.cuda.get_device_properties(self._index).total_memory
        fraction = min(1.0, self._budget_bytes / total)
        torch.cuda.set_per_process_memory_fraction(fraction, self._index)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self._index)

    def reset_peak(self) -> None:
        """Begin a new measurement of the peaks."""
        torch.cuda.reset_peak_memory_stats(self._index)

    def peak_bytes(self) -> Bytes:
        """The most bytes of live tensors at one time (`max_memory_allocated`)."""
        return torch.cuda.max_memory_allocated(self._index)

    def peak_reserved_bytes(self) -> Bytes:
        """The most bytes that PyTorch took from the card, its cache included."""
        return torch.cuda.max_memory_reserved(self._index)

    @property
    def budget_bytes(self) -> Bytes:
        """What PyTorch may reserve: the budget, or the card where that is smaller."""
        total: int = torch.cuda.get_device_properties(self._index).total_memory
        return min(self._budget_bytes, total)

    def live_bytes(self) -> Bytes:
        """Bytes of live tensors (`memory_allocated`)."""
        return torch.cuda.memory_allocated(self._index)

    def reserved_bytes(self) -> Bytes:
        """Bytes that PyTorch holds on the card, its cache included."""
        return torch.cuda.memory_reserved(self._index)

    def snapshot(self) -> tuple[str, bytes]:
        """A pickle for pytorch.org/memory_viz, or a summary in words where that is too large."""
        content = pickle.dumps(torch.cuda.memory._snapshot())
        if len(content) <= _MAX_SNAPSHOT:
            return ".pickle", content
        return ".txt", torch.cuda.memory_summary(self._index).encode()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True for `torch.OutOfMemoryError` and what CUDA, cuBLAS and cuDNN raise instead."""
        return is_card_out_of_memory(error)

    def release(self) -> None:
        """Collect cycles, in which tensors can hang after an error, and empty the cache."""
        gc.collect()
        with torch.cuda.device(self._index):
            torch.cuda.empty_cache()


def _require_cuda() -> None:
    if torch.version.cuda is None:
        raise NoDeviceError(
            "this torch cannot use a GPU",
            code="E2010",
            why=(f"torch {torch.__version__} is built without CUDA",),
            fix=("install a torch built for CUDA", "or ask for `device: cpu` or emulated cards"),
        )
    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        why = "CUDA starts and shows no card: CUDA_VISIBLE_DEVICES hides it"
    except RuntimeError as error:  # of several classes, by torch version and fault
        why = str(error).splitlines()[0]
    raise NoDeviceError(
        "no GPU can be used",
        code="E2010",
        why=(f"torch {torch.__version__} is built for CUDA {torch.version.cuda}", why),
        fix=(
            "check the driver with nvidia-smi; CUDA 13 needs 580 or later, CUDA 12 needs 525",
            "or ask for `device: cpu` or emulated cards",
        ),
    )


def _visible_index(card: Card) -> int:
    count = torch.cuda.device_count()
    uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(count)]
    if card.uuid in uuids:
        return uuids.index(card.uuid)
    if not card.uuid and count == 1:
        return 0
    if not card.uuid and card.index < count:
        return card.index
    raise NoDeviceError(
        f"this process does not see GPU {card.index} ({card.name})",
        code="E2010",
        why=(f"wanted {card.uuid or f'index {card.index}'}", f"visible: {', '.join(uuids)}"),
        fix=("let Ray set CUDA_VISIBLE_DEVICES; do not set it by hand beside a GPU request",),
    )
