"""Room for an optimizer's update, sought before it changes anything.

An update that runs out of memory halfway has changed some weights and not others, and cannot be
repeated. So the bytes that it needs beside what is there are asked for first, in one piece.
"""

import torch
from torch import nn

from orchestrator.trainer.governor import Governor
from orchestrator.trainer.optimizer_place import HostState
from orchestrator.trainer.rungs import IN_UPDATE
from orchestrator.types import Bytes

__all__ = ["UpdateRoom"]

_BLOCK = 512  # bytes: what the allocator rounds to (kMinBlockSize, CUDACachingAllocator.cpp)


class UpdateRoom:
    """Asks for the bytes of an update, and makes the update take less where they are not there.

    Needed are: before the first update the optimizer's state (one value a weight for SGD, two for
    the Adam family), and for the update itself one value a weight where torch updates all weights
    at once (`foreach`, its default on CUDA), or two of the largest tensor where it updates one
    tensor after another. State that lives on the host visits one tensor after another.

    Args:
        optimizer: Its parameters lie where they train.
        governor: Knows the device and the other ranks.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, governor: Governor) -> None:
        self._optimizer = optimizer
        self._governor = governor
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        sizes = [_num_bytes(p) for p in parameters if p.requires_grad]
        self._total, self._largest = sum(sizes), max(sizes, default=0)
        self._counts = len(sizes) * _BLOCK  # each has a count of its steps
        self._is_batched = any(p.device.type == "cuda" for p in parameters)
        self._look()

    def _look(self) -> None:
        """Where the optimizer's state lies now."""
        name = type(self._optimizer).__name__.lower()
        moments = 1 if "sgd" in name else 2
        is_visiting = isinstance(self._optimizer, HostState)
        self._is_batched = self._is_batched and not is_visiting
        moved = self._total * moments // (4 if "8bit" in name else 1)
        self._state = self._counts + (0 if is_visiting else moved)
        self._visiting = moments * self._largest if is_visiting else 0

    @property
    def state_to_come(self) -> Bytes:
        """Bytes of state that the first update makes; 0 once it is there."""
        return 0 if self._optimizer.state else self._state

    def demand(self) -> None:
        """Return when the update will find its memory, if need be after its state has moved.

        Raises:
            TrainingError: OUT_OF_MEMORY, it will not; nothing was changed.
        """
        while (needed := self._lacking()) is not None:
            why = f"the optimizer's update needs {needed / 2**20:.1f} MiB"
            self._governor.give_up(why, helps=IN_UPDATE)
            self._look()

    def _lacking(self) -> Bytes | None:
        """The bytes that the update needs and cannot get; None where it can."""
        fixed = self.state_to_come
        one_by_one = fixed + self._visiting + 2 * self._largest
        if self._is_batched:
            if self._governor.has_room(fixed + self._total + self._largest):
                return None
            for group in self._optimizer.param_groups:
                if "foreach" in group:
                    group["foreach"] = False
            self._is_batched = False
        return None if self._governor.has_room(one_by_one) else one_by_one


def _num_bytes(parameter: nn.Parameter) -> Bytes:
    return -(-parameter.numel() * parameter.element_size() // _BLOCK) * _BLOCK
