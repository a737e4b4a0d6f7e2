"""How many bytes this process may still get on its card, and what is left when there are none."""

from dataclasses import dataclass

import torch

from orchestrator.ports import Device
from orchestrator.types import Bytes

__all__ = ["Shortage", "can_get", "room_on"]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Memory ran out; tensors of the step are gone by the time anyone reads this."""

    what: str
    live_bytes: Bytes
    is_other: bool = False  # another rank ran out, in the middle of the step
    is_single: bool = False  # not memory: BatchNorm cannot learn from a piece of one sample

    def told(self, where: str, room: Bytes | None = None) -> str:
        """In words: where it was, how much was alive, and for how much there is room."""
        alive = f"{self.live_bytes / 2**20:.0f} MiB alive"
        rest = "" if room is None else f", room for {room / 2**20:.0f} MiB"
        return f"out of memory in {where} with {alive}: {self.what}{rest}"


def room_on(device: Device) -> Bytes | None:
    """Bytes that this process may hold in all: its budget, or what others leave of the card.

    Free bytes and our own are counted, not foreign processes: in a container with process
    ids of its own, the driver does not know which processes are ours. None is no limit.
    """
    budget = device.budget_bytes
    if budget is None:
        return None
    return min(budget, device.memory().free_bytes + device.reserved_bytes())


def can_get(device: Device, num_bytes: Bytes) -> bool:
    """True when so many bytes are there now, in one piece; frees the allocator's cache for it."""
    if _gets(device, num_bytes):
        return True
    device.release()
    return _gets(device, num_bytes)


def _gets(device: Device, num_bytes: Bytes) -> bool:
    try:
        torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device)
    except Exception as error:
        if not device.is_out_of_memory(error):
            raise
        return False
    return True
