"""The optimizer in ultralytics' loop: where its state lies, and room for each update."""

from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.plan.ladder import Rung
from orchestrator.trainer.offers import offer_optimizer, offer_size
from orchestrator.trainer.optimizer_place import HostMemory, placed
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.rungs import Offer
from orchestrator.trainer.update import UpdateRoom
from orchestrator.trainer.yolo_apart import can_halve, on_host
from orchestrator.trainer.yolo_attempt import Attempt

__all__ = ["Update"]

if TYPE_CHECKING:
    _Mixed = Any  # whichever trainer class follows in the order of resolution
else:
    _Mixed = object


class Update(_Mixed):
    """Mixed into a trainer class, before it."""

    attempt: Attempt
    reduction: Reduction | None = None  # of the gradients of a gang

    def build_optimizer(self: Any, *given: Any, **named: Any) -> Any:
        """Put its state where the run wants it, before anything holds on to the optimizer."""
        optimizer = super().build_optimizer(*given, **named)
        return placed(optimizer, self.attempt.memory.optimizer_state, self._host_memory())

    def _host_memory(self) -> HostMemory:
        device = self.attempt.device
        is_pinned = device.torch_device.startswith("cuda")
        return HostMemory(entered=partial(on_host, device), is_pinned=is_pinned)

    def seek_room(self: Any) -> None:
        """Look from now on for an update's memory before it changes anything; offer rungs.

        ultralytics enters its autocast around the step and makes its loss scale at set-up: half
        precision is left to the next attempt, which does both as it always does.
        """
        memory, rungs = self.attempt.memory, self.attempt.governor.rungs
        self._update_room = UpdateRoom(self.optimizer, self.attempt.governor)
        offer_optimizer(rungs, self.optimizer, self._host_memory())
        offer_size(rungs, self.args.imgsz, memory)
        if not self.amp and self.args.amp != "bf16" and can_halve(self.device):
            rungs.offer(Rung.AMP, Offer(setting=lambda: "fp16"))
        if memory.grad_checkpointing:
            self.model.forward.checkpoint()
        else:
            take = self.model.forward.checkpoint
            rungs.offer(Rung.CHECKPOINTING, Offer(setting=lambda: "on", take=take))

    def optimizer_step(self: Any) -> None:
        """Find its memory; the gradients of all ranks have been added up."""
        self._update_room.demand()
        if self.reduction is not None:
            self.reduction.complete()
        super().optimizer_step()
