"""The log of a trace: storages born and dead, each with its part of the step and its module."""

import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from orchestrator.memory.events import Birth, Event, StepTrace
from orchestrator.types import Bytes

__all__ = ["Tracker"]


class _StorageRef(weakref.ref[torch.UntypedStorage]):
    __slots__ = ("key", "serial")

    key: int
    serial: int


class Tracker:
    """Logs the storages of one device type that it is shown, and the place where each came from.

    Deaths log themselves. While `watching`, the module that is running is known, in the backward
    pass by the sequence numbers that autograd gives to nodes.
    """

    def __init__(self) -> None:
        self.part = "weights"
        self._log: list[int] = []  # ~n: storage n is born; n: it dies
        self._sizes: list[Bytes] = []
        self._parts: list[str] = []
        self._modules: list[str] = []
        self._ops: list[str] = []
        self._most: dict[int, int] = {}  # samples beyond which a storage does not grow
        self._marks: list[tuple[str, int]] = [("build", 0)]
        self._refs: dict[int, _StorageRef] = {}
        self._lent: list[Bytes] = []
        self._is_paused = False
        self._path: list[str] = [""]
        self._names: dict[int, str] = {}
        self._ranges: tuple[list[int], list[str]] = ([], [])  # first node of a range, its module

    @property
    def module(self) -> str:
        """Path of the module that is running, "" outside of any."""
        return self._path[-1]

    # ---- storages

    def see(self, storage: torch.UntypedStorage, op: str) -> None:
        """Log a storage, unless it is known already or empty."""
        key = storage._cdata
        if key in self._refs or self._is_paused:
            return
        num_bytes = storage.nbytes()
        if not num_bytes:
            return
        ref = _StorageRef(storage, self._died)
        ref.key = key
        ref.serial = self._born(num_bytes, self.part, op)
        self._refs[key] = ref
        if self._lent and (lent := self._lent.pop(0)):
            self._log.append(self._born(lent, "scratch", op))

    def _born(self, num_bytes: Bytes, part: str, op: str) -> int:
        serial = len(self._sizes)
        self._sizes.append(num_bytes)
        self._parts.append(part)
        self._modules.append(self._path[-1])
        self._ops.append(op)
        self._log.append(~serial)
        return serial

    def _died(self, ref: Any) -> None:
        self._refs.pop(ref.key, None)
        self._log.append(ref.serial)

    def relabel(self, tensor: Tensor, part: str) -> None:
        """Say what a storage is for, where that shows only later."""
        ref = self._refs.get(tensor.untyped_storage()._cdata)
        if ref is not None:
            self._parts[ref.serial] = part

    def part_of(self, tensor: Tensor) -> str:
        """What the storage of a tensor is for; "" for one that was never seen."""
        ref = self._refs.get(tensor.untyped_storage()._cdata)
        return "" if ref is None else self._parts[ref.serial]

    @contextmanager
    def labelled(self, part: str) -> Iterator[None]:
        """What is born inside is for `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is born inside is not on record."""
        before, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = before

    @contextmanager
    def lending(self, sizes: Sequence[Bytes]) -> Iterator[None]:
        """Each of the first storages that are born inside is followed by scratch of that size."""
        self._lent = list(sizes)
        try:
            yield
        finally:
            self._lent = []

    @contextmanager
    def in_portions(self, samples: int, least_bytes: Bytes) -> Iterator[None]:
        """What is born inside with at least so many bytes is really made for `samples` at a time.

        What is still there when the last storage inside is born is so when the next portion begins:
        of it, two portions are alive at a time.
        """
        begin, first = len(self._log), len(self._sizes)
        yield
        inside = self._log[begin:]
        births = [at for at, entry in enumerate(inside) if entry < 0]
        dead = set(inside[: births[-1] if births else 0])
        for serial in range(first, len(self._sizes)):
            if self._sizes[serial] >= least_bytes:
                self._most[serial] = samples if serial in dead else 2 * samples

    def mark(self, name: str) -> None:
        """Name this position of the log."""
        self._marks.append((name, len(self._log)))

    def forget_dead(self) -> None:
        """Strike storages that have died from the log, before any mark but the first."""
        alive = {ref.serial for ref in self._refs.values()}
        self._log = [entry for entry in self._log if ~entry in alive]

    def rename_last(self, name: str, better: str) -> bool:
        """Correct the last mark if it is `name`; returns whether it was."""
        last, position = self._marks[-1]
        if last == name:
            self._marks[-1] = (better, position)
        return last == name

    # ---- modules

    @contextmanager
    def watching(self, *roots: nn.Module) -> Iterator[None]:
        """Follow which module runs; names count from each root."""
        for root in roots:
            self._names.update({id(module): name for name, module in root.named_modules()})
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._names.clear()

    def _enter(self, module: nn.Module, given: object) -> None:
        del given
        self._go(self._names.get(id(module), self._path[-1]), push=True)

    def _leave(self, module: nn.Module, given: object, found: object) -> None:
        del module, given, found
        if len(self._path) > 1:
            self._path.pop()
        self._go(self._path[-1], push=False)

    def _go(self, name: str, *, push: bool) -> None:
        if push:
            self._path.append(name)
        numbers, names = self._ranges
        numbers.append(torch._C._autograd._get_sequence_nr())
        names.append(name)

    @contextmanager
    def backward_of(self, node: Any) -> Iterator[None]:
        """What is born inside belongs to the module whose forward pass made the node."""
        depth = len(self._path)
        numbers, names = self._ranges
        number = node._sequence_nr()
        index = bisect_right(numbers, number) - 1
        is_made = (
            index >= 0 and number < 1 << 62
        )  # others accumulate: they belong to who feeds them
        self._path.append(names[index] if is_made else self._path[-1])
        try:
            yield
        finally:
            del self._path[depth:]

    # ---- the result

    def finish(self, batch: int) -> StepTrace:
        """Everything up to now; what is still alive has no death."""
        events: list[Event] = []
        numbers: dict[int, int] = {}  # in the order of birth, without those struck from the log
        for entry in self._log:
            if entry >= 0:
                events.append(numbers[entry])
                continue
            n, number = ~entry, len(numbers)
            numbers[n] = number
            part, module, op = self._parts[n], self._modules[n], self._ops[n]
            events.append(Birth(number, self._sizes[n], part, module, op, self._most.get(n, 0)))
        return StepTrace(batch=batch, events=tuple(events), marks=tuple(self._marks))

    def relabel_all(self, tensors: Iterable[Any], part: str) -> None:
        """`relabel` for every tensor among the values."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self.relabel(tensor, part)
