"""The tracker of live tensor bytes: births and deaths of storages, with a limit that raises."""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.device.operators import KINDS, LOADER_ENTER, Kind, classify
from orchestrator.types import Bytes

__all__ = ["LiveBytes", "LiveRow", "StorageEvent", "block_bytes"]

# What DataLoader iterators call themselves when they announce `__next__` to the profiler
# (torch/utils/data/dataloader.py, `_BaseDataLoaderIter._profile_name`).
_LOADER = "enumerate(DataLoader)#"
_BLOCK_BYTES = 512
_MIB = 1 << 20


def block_bytes(num_bytes: Bytes) -> Bytes:
    """Bytes that PyTorch's CUDA caching allocator hands out for a request of `num_bytes`.

    Rounded up to 512: `kMinBlockSize` and `round_size` in c10/cuda/CUDACachingAllocator.cpp
    (default configuration, `roundup_power2_divisions` unset).
    """
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


class StorageEvent(NamedTuple):
    """A birth (`num_bytes` as asked for, not rounded) or a death (`num_bytes` negative).

    `storage` counts from 0 in the order of birth; birth and death of a storage share it. A
    storage that grows in place dies and is born under a new number.
    """

    storage: int
    num_bytes: int
    op: str


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    """A counted storage. Its callback only queues it, so that a death is safe at any moment."""

    __slots__ = ("key", "num_bytes", "op", "requested", "serial")

    key: int
    op: object
    num_bytes: Bytes
    requested: Bytes
    serial: int


class LiveRow(NamedTuple):
    """Live storages that came from one operator: how many, and their bytes as counted."""

    op: str
    num_storages: int
    num_bytes: Bytes


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensor storages of one device type while it is entered.

    What counts, each storage once and rounded up by `block_bytes`, until the storage dies:

    * every storage that an operator returns (forward, backward, optimizer, copies);
    * every storage that an operator reads and that was there before (parameters, batches): it is
      adopted whole, at its first use, even if only a view of it was read. `adopt` does so early.

    What does not count: tensors made inside `host()` or inside a DataLoader's `__next__`, until
    an operator outside reads them. There they are host memory, and the first use stands for the
    `.to(device)` that a CPU posing as a card makes a no-op. The reverse does not hold: a result
    moved with `.cpu()` goes on counting, as does a checkpoint loaded into host memory and then
    copied. The count errs towards too much there, never towards too little.

    Not seen: scratch memory inside an operator, memory of libraries, operators in other threads,
    opaque (mkldnn) tensors, anything under `torch.compile`, and `UntypedStorage.resize_` but for
    what `resized` is told.
    Sparse tensors count through their indices and values.

    Memory is counted when an operator has run, since only then its result is known: the result
    that goes beyond the limit exists for an instant, is dropped, and
    `torch.OutOfMemoryError` is raised. The refused bytes never enter `live_bytes` or
    `peak_bytes`, so neither exceeds the limit.

    Leaving stops births from being seen; deaths are still seen, and the tracker may be entered
    again. Not to be entered twice at the same time.

    Args:
        device_type: Type of the torch devices whose storages count: "cpu", or "cuda" for fake
            tensors.
        limit_bytes: Live bytes that may not be exceeded; None sets no limit.
        name: Of the card, for the text of the error.
        keep_events: Whether to keep `events`.
    """

    def __init__(
        self,
        *,
        device_type: str = "cpu",
        limit_bytes: Bytes | None = None,
        name: str = "device",
        keep_events: bool = False,
    ) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.events: list[StorageEvent] | None = [] if keep_events else None
        self.refused: tuple[LiveRow, ...] = ()  # what was alive when memory last ran out
        self._device_type = device_type
        self._name = name
        self._refs: dict[int, _StorageRef] = {}
        self._dead: deque[weakref.ref[torch.UntypedStorage]] = deque()
        self._live = 0
        self._peak = 0
        self._serial = 0
        self._host_depth = 0
        self._regions: list[bool] = []  # open profiler regions; True for one of a DataLoader

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Counting is not compiled, so torch need not shield every call from its compiler."""
        return False

    @property
    def live_bytes(self) -> Bytes:
        """Bytes of the counted storages that are alive."""
        self._bury()
        return self._live

    @property
    def peak_bytes(self) -> Bytes:
        """The most live bytes at one time since the start or `reset_peak`."""
        return self._peak

    def reset_peak(self) -> None:
        """Begin a new measurement of the peak at what is alive now."""
        self._peak = self.live_bytes

    def rows(self) -> tuple[LiveRow, ...]:
        """What is alive, by the operator that it came from, the most bytes first."""
        self._bury()
        found: dict[str, tuple[int, Bytes]] = {}
        for ref in self._refs.values():
            count, num_bytes = found.get(str(ref.op), (0, 0))
            found[str(ref.op)] = (count + 1, num_bytes + ref.num_bytes)
        rows = (LiveRow(op, count, num_bytes) for op, (count, num_bytes) in found.items())
        return tuple(sorted(rows, key=lambda row: (-row.num_bytes, row.op)))

    def adopt(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that were there before, such as the parameters of a model.

        Raises:
            torch.OutOfMemoryError: They do not fit; those before the one that does not are counted.
        """
        self._see(tensors, "adopt")

    @contextmanager
    def host(self) -> Iterator[None]:
        """While inside, nothing is counted: what is made here is host memory."""
        self._host_depth += 1
        try:
            yield
        finally:
            self._host_depth -= 1

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count what it read and made."""
        kind = KINDS.get(func) or classify(func)
        if kind is Kind.MARK:
            self._mark(func, args)
        if kind is Kind.VIEW or self._host_depth:
            return func(*args, **kwargs) if kwargs else func(*args)
        self._see(args, "input")
        if kwargs:
            self._see(kwargs.values(), "input")
            out = func(*args, **kwargs)
        else:
            out = func(*args)
        if kind is Kind.IN_PLACE:
            return out
        try:
            self._see((out,), func, is_resizable=kind is Kind.RESIZE)
        except torch.OutOfMemoryError as error:
            del out, args, kwargs  # or the frames of the traceback would keep the refused memory
            raise error.with_traceback(None) from None
        return out

    def _mark(self, func: object, args: Sequence[Any]) -> None:
        if func is LOADER_ENTER:
            is_loader = isinstance(args[0], str) and args[0].startswith(_LOADER)
            self._regions.append(is_loader)
            self._host_depth += is_loader
        elif self._regions:
            self._host_depth -= self._regions.pop()

    def _see(self, values: Iterable[Any], op: object, *, is_resizable: bool = False) -> None:
        refs = self._refs
        for value in values:
            if isinstance(value, torch.Tensor):
                part = getattr(value, "_local_tensor", None)
                try:  # of a tensor that is split over ranks, its part here is what takes memory
                    storage = (value if part is None else part).untyped_storage()
                except (NotImplementedError, RuntimeError):
                    self._see_sparse(value, op)
                    continue
                # torch keeps one Python object a storage for as long as the storage lives.
                ref = refs.get(id(storage))
                if ref is None or ref() is not storage or is_resizable:
                    self._meet(value, storage, op)
            elif isinstance(value, (list, tuple)):
                self._see(value, op, is_resizable=is_resizable)

    def _meet(self, tensor: torch.Tensor, storage: torch.UntypedStorage, op: object) -> None:
        """Count a storage that is new, or that may have changed its size."""
        if tensor.device.type != self._device_type:
            return
        ref = self._refs.get(id(storage))
        if ref is not None and ref() is storage:
            if ref.requested == storage.nbytes():
                return
            self._forget(ref)
        self._count(storage, op)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Count a storage anew that was given another size: to be told of `resize_`."""
        ref = self._refs.get(id(storage))
        if ref is not None and ref() is storage and ref.requested != storage.nbytes():
            self._forget(ref)
            if not self._host_depth:
                self._count(storage, "resize_")

    def _see_sparse(self, tensor: torch.Tensor, op: object) -> None:
        if tensor.layout is torch.sparse_coo:
            self._see((tensor._indices(), tensor._values()), op)

    def _count(self, storage: torch.UntypedStorage, op: object) -> None:
        self._bury()
        requested = storage.nbytes()
        if not requested:
            return
        num_bytes = block_bytes(requested)
        if self.limit_bytes is not None and self._live + num_bytes > self.limit_bytes:
            self.refused = self.rows()
            raise torch.OutOfMemoryError(self._refusal(requested))
        ref = _StorageRef(storage, self._dead.append)
        ref.op = op
        ref.key = id(storage)
        ref.num_bytes = num_bytes
        ref.requested = requested
        ref.serial = self._serial
        self._serial += 1
        self._refs[ref.key] = ref
        self._live += num_bytes
        self._peak = max(self._peak, self._live)
        if self.events is not None:
            self.events.append(StorageEvent(ref.serial, requested, str(op)))

    def _bury(self) -> None:
        while self._dead:
            dead = self._dead.popleft()
            assert isinstance(dead, _StorageRef)
            if dead.serial >= 0:
                self._forget(dead)

    def _forget(self, ref: _StorageRef) -> None:
        if self._refs.get(ref.key) is ref:
            del self._refs[ref.key]
        self._live -= ref.num_bytes
        if self.events is not None:
            self.events.append(StorageEvent(ref.serial, -ref.requested, "free"))
        ref.serial = -1  # its death may still be queued

    def _refusal(self, requested: Bytes) -> str:
        limit = self.limit_bytes or 0
        return (
            f"{self._name} out of memory. Tried to allocate {requested / _MIB:.2f} MiB."
            f" The budget is {limit / _MIB:.2f} MiB, of which {self._live / _MIB:.2f} MiB are held"
            f" by live tensors and {(limit - self._live) / _MIB:.2f} MiB are free."
        )
