"""The driver's view of the cards: names, memory, who holds it; never prints."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import psutil
import pynvml

from orchestrator.device.catalogue import worth_of
from orchestrator.device.driver import DriverError, DriverReader, GpuProcess, NvmlReader
from orchestrator.errors import NoDeviceError
from orchestrator.types import Bytes, Card, DeviceMemory

__all__ = ["RefusedCard", "card_memory", "cards", "own_processes", "survey"]

# The machine has no NVIDIA driver: not an error, there simply are no cards.
_ABSENT = (
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_NOT_FOUND,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCard:
    """A card that is there and cannot be used, with the reason and the remedy."""

    index: int
    name: str
    why: str
    fix: str


def cards(reader: DriverReader | None = None) -> tuple[Card, ...]:
    """The cards of this machine that can be used; empty without an NVIDIA driver.

    `CUDA_VISIBLE_DEVICES` of this process is obeyed (numbers, or the beginning of UUIDs).
    `foreign_bytes` are held by processes other than `own_processes()`.

    Raises:
        NoDeviceError: There is a driver, and it does not answer.
    """
    return survey(reader)[0]


def survey(
    reader: DriverReader | None = None,
    *,
    ours: Collection[int] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[tuple[Card, ...], tuple[RefusedCard, ...]]:
    """The cards that can be used, and those that cannot, with reasons.

    Refused are: a card in MIG mode (Ray hands out whole GPUs and cannot place on an instance), a
    card whose memory the driver does not count, and a card that fell off the bus.

    Args:
        reader: Who answers; None is the driver of this machine.
        ours: Process ids that are not foreign; None is `own_processes()`.
        environ: Where `CUDA_VISIBLE_DEVICES` is looked up.

    Raises:
        NoDeviceError: As `cards`.
    """
    try:
        reader = reader or _driver()
        num_cards = reader.count()
    except DriverError as error:
        if error.code in _ABSENT:
            return (), ()
        raise _broken(error) from None
    ours = own_processes() if ours is None else ours
    usable: list[Card] = []
    refused: list[RefusedCard] = []
    for index in range(num_cards):
        try:
            uuid = reader.uuid(index)
            if _is_visible(index, uuid, environ.get("CUDA_VISIBLE_DEVICES")):
                found = _read_card(reader, index, uuid, ours)
                if isinstance(found, Card):
                    usable.append(found)
                else:
                    refused.append(found)
        except DriverError as error:
            refused.append(
                RefusedCard(
                    index=index,
                    name=f"GPU {index}",
                    why=f"the driver does not answer for it: {error}",
                    fix="look for Xid messages in the kernel log (dmesg), then restart the machine",
                )
            )
    return tuple(usable), tuple(refused)


def card_memory(
    card: int | str,
    reader: DriverReader | None = None,
    *,
    ours: Collection[int] | None = None,
) -> DeviceMemory:
    """The memory of one card, given by its index on the PCI bus or its UUID.

    `foreign_bytes` is the sum over processes that are not `ours`. Where the driver does not tell
    a foreign process's bytes, everything in use that is not known to be ours counts as foreign.
    Inside a container with its own process ids, our own processes look foreign as well.

    Raises:
        NoDeviceError: There is no such card, or the driver does not answer or count its memory.
    """
    try:
        reader = reader or _driver()
        index = card if isinstance(card, int) else _index_of(reader, card)
        total, used = reader.memory(index)
        processes = reader.processes(index)
    except DriverError as error:
        raise _broken(error) from None
    if total is None or used is None:
        raise NoDeviceError(
            f"the driver does not count the memory of GPU {card}",
            code="E2012",
            why=("its memory is shared with the host, as on Jetson and GB10",),
            fix=("use a card with memory of its own, or `device: cpu`",),
        )
    ours = own_processes() if ours is None else ours
    return DeviceMemory(
        total_bytes=total, used_bytes=used, foreign_bytes=_foreign(used, processes, ours)
    )


def own_processes() -> frozenset[int]:
    """This process, its descendants, and, below a Ray node, everything that node started."""
    here = psutil.Process()
    root = next((p for p in reversed(here.parents()) if _is_raylet(p)), here)
    return frozenset({root.pid, here.pid, *(p.pid for p in root.children(recursive=True))})


def _is_raylet(process: psutil.Process) -> bool:
    try:
        return bool(process.name() == "raylet")
    except psutil.Error:
        return False


def _read_card(
    reader: DriverReader, index: int, uuid: str, ours: Collection[int]
) -> Card | RefusedCard:
    name = reader.name(index)
    if reader.is_mig(index):
        return RefusedCard(
            index=index,
            name=name,
            why="it is cut into MIG instances, and Ray hands out whole GPUs only",
            fix=f"switch MIG off: nvidia-smi -i {index} -mig 0",
        )
    total, used = reader.memory(index)
    if total is None or used is None:
        return RefusedCard(
            index=index,
            name=name,
            why="the driver does not count its memory (shared with the host)",
            fix="use a card with memory of its own, or `device: cpu`",
        )
    foreign = _foreign(used, reader.processes(index), ours)
    return Card(
        index=index,
        name=name,
        memory_bytes=total,
        foreign_bytes=foreign,
        uuid=uuid,
        worth=worth_of(name),
    )


def _foreign(used: Bytes, processes: Sequence[GpuProcess], ours: Collection[int]) -> Bytes:
    mine = sum(p.num_bytes or 0 for p in processes if p.pid in ours)
    others = [p.num_bytes for p in processes if p.pid not in ours]
    known = [num_bytes for num_bytes in others if num_bytes is not None]
    if len(known) < len(others):
        return max(0, used - mine)
    return min(used, sum(known))


def _is_visible(index: int, uuid: str, visible: str | None) -> bool:
    # As CUDA reads it: the list ends at the first entry that names no card.
    if visible is None:
        return True
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            if int(entry) == index:
                return True
        elif entry.startswith("GPU-"):
            if uuid.startswith(entry):
                return True
        else:
            return False
    return False


def _index_of(reader: DriverReader, uuid: str) -> int:
    for index in range(reader.count()):
        if reader.uuid(index) == uuid:
            return index
    raise DriverError(pynvml.NVML_ERROR_GPU_NOT_FOUND, f"no card has the UUID {uuid}")


def _broken(error: DriverError) -> NoDeviceError:
    fix = ["run nvidia-smi: it shows the same fault"]
    if error.code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        fix = ["restart the machine, or reload the nvidia kernel module: the driver was updated"]
    elif error.code in _ABSENT:
        fix = ["install the NVIDIA driver, or ask for `device: cpu` or emulated cards"]
    return NoDeviceError(
        f"the NVIDIA driver does not answer: {error}",
        code="E2011",
        why=(f"NVML error {error.code}",),
        fix=fix,
    )


@cache
def _driver() -> NvmlReader:
    return NvmlReader()
