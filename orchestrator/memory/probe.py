"""What a trainer asks for beside its step: room for the update, sought before it begins."""

from typing import Any

import torch

from orchestrator.memory.stage import Stage
from orchestrator.trainer.update import UpdateRoom
from orchestrator.types import Bytes

__all__ = ["room_of"]


class _Granting:
    """Stands in for the governor of a run: there is room, and the blocks that show it are made.

    A run asks in one piece; here the state that the first update makes is told from the rest.
    """

    room: UpdateRoom

    def __init__(self, stage: Stage, *, is_asking: bool) -> None:
        self._stage = stage
        self._is_asking = is_asking

    def has_room(self, num_bytes: Bytes) -> bool:
        """True; the blocks came and went."""
        if not self._is_asking:
            return True
        blocks = []
        state = self.room.state_to_come
        for part, size in (("optimizer", state), ("workspace", num_bytes - state)):
            with self._stage.labelled(part):
                blocks.append(torch.empty(size, dtype=torch.uint8, device=self._stage.device))
        return True


def room_of(
    optimizer: torch.optim.Optimizer, stage: Stage, *, is_governed: bool = True
) -> UpdateRoom:
    """The search for room of one rank, on a stage where it always succeeds.

    In a step that `is_governed` by none of our trainers nothing is sought.

    Where memory is short the search makes the update take less instead (`UpdateRoom`), so that a
    step whose peak is the update is predicted with at most its largest tensor too much.
    """
    governor: Any = _Granting(stage, is_asking=is_governed)
    governor.room = UpdateRoom(optimizer, governor)
    found: UpdateRoom = governor.room
    return found
