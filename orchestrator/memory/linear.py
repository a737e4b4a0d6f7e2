"""Two traces made one: the size of every allocation as a line in the batch; only arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from orchestrator.errors import OrchestratorError
from orchestrator.memory.events import PARTS, Birth, Event, StepTrace
from orchestrator.types import Bytes

__all__ = ["Ints", "LinearTrace"]

Ints = npt.NDArray[np.int64]

_BLOCK = 512  # kMinBlockSize of the caching allocator
_SCRATCH = PARTS.index("scratch")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTrace:
    """The events of a traced step, and each storage's bytes at two batches.

    `most` are, by storage, the samples beyond which it does not grow; 0 is no such number.
    `order` holds the events: a storage's number is its birth, the bitwise complement its death.
    `low` and `high` are the bytes of every storage at `batches[0]` and `batches[1]`. `part` and
    `module` are indexes, by storage, into `PARTS` and `module_names`. `marks` names positions in
    `order`.
    """

    batches: tuple[int, int]
    order: Ints
    low: Ints
    high: Ints
    part: Ints
    module: Ints
    module_names: tuple[str, ...]
    marks: tuple[tuple[str, int], ...] = ()
    most: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _events: list[int] = field(default_factory=list, repr=False, compare=False)
    _lasting: list[int] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, first: StepTrace, second: StepTrace) -> "LinearTrace":
        """Join the traces of one workload at two batches.

        The order within a run of deaths does not matter to an allocator and is not compared.

        Raises:
            OrchestratorError: E2120, the traces are of one batch, or their events differ in
                structure, so that sizes cannot be matched.
        """
        if first.batch == second.batch:
            raise _mismatch(f"both are of {first.batch} samples")
        births, order = _canonical(first.events)
        others, other_order = _canonical(second.events)
        for one, two, what in ((births, others, "allocations"), (order, other_order, "events")):
            if len(one) != len(two):
                raise _mismatch(
                    f"{len(one)} {what} at {first.batch} samples, {len(two)} at {second.batch}"
                )
        if order != other_order:
            at = next(i for i, (a, b) in enumerate(zip(order, other_order, strict=True)) if a != b)
            raise _mismatch(f"the first difference is event {at} of {len(order)}")
        names = tuple(dict.fromkeys(birth.module for birth in births))
        index = {name: number for number, name in enumerate(names)}
        return cls(
            batches=(first.batch, second.batch),
            order=np.array(order, np.int64),
            low=np.array([birth.num_bytes for birth in births], np.int64),
            high=np.array([birth.num_bytes for birth in others], np.int64),
            part=np.array([PARTS.index(birth.part) for birth in births], np.int64),
            module=np.array([index[birth.module] for birth in births], np.int64),
            module_names=names,
            marks=tuple(first.marks),
            most=np.array([birth.most for birth in births], np.int64),
        )

    @property
    def events(self) -> list[int]:
        """`order` as a list, which Python walks faster; made once."""
        if not self._events:
            self._events.extend(self.order.tolist())
        return self._events

    @property
    def is_scratch(self) -> list[bool]:
        """By storage, whether a kernel takes it and gives it back while it runs."""
        found: list[bool] = (self.part == _SCRATCH).tolist()
        return found

    @property
    def lasting(self) -> list[int]:
        """`events` without those of scratch; made once."""
        if not self._lasting:
            storage = np.where(self.order < 0, ~self.order, self.order)
            self._lasting.extend(self.order[self.part[storage] != _SCRATCH].tolist())
        return self._lasting

    def requested(self, batch: int) -> Ints:
        """Bytes that each storage asks for at `batch` samples, rounded up to whole bytes."""
        first, second = self.batches
        span = second - first
        samples: int | Ints = batch
        if self.most.any():
            samples = np.where(self.most > 0, np.minimum(self.most, batch), batch)
        return -(-(self.low * span + (self.high - self.low) * (samples - first)) // span)

    def sizes(self, batch: int) -> Ints:
        """The same, rounded up to the allocator's granule of 512 bytes."""
        return np.maximum(-(-self.requested(batch) // _BLOCK), 1) * _BLOCK

    def live(self, sizes: Ints) -> Ints:
        """Live bytes after each event, for the given size of each storage, without scratch."""
        sizes = np.where(self.part == _SCRATCH, 0, sizes)
        storage = np.where(self.order < 0, ~self.order, self.order)
        return np.cumsum(np.where(self.order < 0, -sizes[storage], sizes[storage]))

    def allocated_peak(self, batch: int) -> Bytes:
        """The most live bytes at one time, each storage rounded up to 512."""
        return int(self.live(self.sizes(batch)).max(initial=0))

    def alive_at_peak(self, sizes: Ints) -> Ints:
        """Numbers of the storages that are alive when live bytes are at their peak."""
        past = self.order[: int(self.live(sizes).argmax()) + 1]
        is_alive = np.zeros(len(self.low), bool)
        is_alive[past[past >= 0]] = True
        is_alive[~past[past < 0]] = False
        return np.flatnonzero(is_alive)

    def parts_at_peak(self, sizes: Ints) -> Mapping[str, Bytes]:
        """The peak's bytes by what they are for; every name of `PARTS`, in that order."""
        alive = self.alive_at_peak(sizes)
        return _sums(self.part[alive], sizes[alive], PARTS)

    def modules_at_peak(self, sizes: Ints) -> Mapping[str, Bytes]:
        """The peak's bytes by module, most first; "" are those outside of any module."""
        alive = self.alive_at_peak(sizes)
        sums = _sums(self.module[alive], sizes[alive], self.module_names)
        return {name: sums[name] for name in sorted(sums, key=lambda n: -sums[n]) if sums[name]}

    def blend(self, other: "LinearTrace", share: float) -> "LinearTrace":
        """The trace that lies `share` of the way from this one to `other`.

        With traces of two label counts, sizes become bilinear in the batch and the count.

        Raises:
            OrchestratorError: E2120, the structures differ.
        """
        if self.batches != other.batches or not np.array_equal(self.order, other.order):
            raise _mismatch("the traces that are to be blended differ in structure or batch")
        low, high = (
            np.ceil(mine + (theirs - mine) * share).astype(np.int64)
            for mine, theirs in ((self.low, other.low), (self.high, other.high))
        )
        return replace(self, low=np.maximum(low, 0), high=np.maximum(high, 0))


def _canonical(events: Sequence[Event]) -> tuple[list[Birth], list[int]]:
    """The births by number, and the events as integers with every run of deaths sorted."""
    births: list[Birth] = []
    order: list[int] = []
    deaths: list[int] = []
    for event in events:
        if isinstance(event, int):
            deaths.append(~event)
            continue
        if event.storage != len(births):
            raise _mismatch(f"storage {event.storage} is born as number {len(births)}")
        order += sorted(deaths)
        deaths.clear()
        order.append(event.storage)
        births.append(event)
    return births, order + sorted(deaths)


def _sums(keys: Ints, sizes: Ints, names: Sequence[str]) -> dict[str, Bytes]:
    totals = np.zeros(len(names), np.int64)
    np.add.at(totals, keys, sizes)
    return dict(zip(names, totals.tolist(), strict=True))


def _mismatch(why: str) -> OrchestratorError:
    return OrchestratorError(
        "the memory of this model cannot be predicted: its traced steps do not match",
        code="E2120",
        why=(why, "what a step does must not depend on the number of samples"),
        fix=("measure it: run one step on a card", "or give micro_batch by hand"),
    )
