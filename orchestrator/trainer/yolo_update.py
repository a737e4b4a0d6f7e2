"""The optimizer in ultralytics' loop: where its state lies, and room for each update."""

from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.trainer.optimizer_place import HostMemory, placed
from orchestrator.trainer.update import UpdateRoom
from orchestrator.trainer.yolo_apart import on_host
from orchestrator.trainer.yolo_attempt import Attempt
from orchestrator.trainer.yolo_ranks import average_gradients

__all__ = ["Update"]

if TYPE_CHECKING:
    _Mixed = Any  # whichever trainer class follows in the order of resolution
else:
    _Mixed = object


class Update(_Mixed):
    """Mixed into a trainer class, before it."""

    attempt: Attempt
    ranks: int

    def build_optimizer(self: Any, *given: Any, **named: Any) -> Any:
        """Put its state where the run wants it, before anything holds on to the optimizer."""
        device = self.attempt.device
        host = HostMemory(
            entered=partial(on_host, device), is_pinned=device.torch_device.startswith("cuda")
        )
        optimizer = super().build_optimizer(*given, **named)
        return placed(optimizer, self.attempt.memory.optimizer_state, host)

    def seek_room(self: Any) -> None:
        """Look from now on for an update's memory before it changes anything."""
        self._update_room = UpdateRoom(self.optimizer, self.attempt.governor, num_ranks=self.ranks)

    def optimizer_step(self: Any) -> None:
        """Find its memory; average the gradients of all ranks, as a data-parallel model would."""
        self._update_room.demand()
        if self.ranks > 1:
            average_gradients(self.model, self.ranks)
        super().optimizer_step()
