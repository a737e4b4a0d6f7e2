"""Where a step is performed: on a fake card, watched, or for real on this machine's CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.memory.answers import Answers
from orchestrator.memory.assigner import in_one_chunk
from orchestrator.memory.attention import card_attention
from orchestrator.memory.engine import Engine
from orchestrator.memory.events import StepTrace
from orchestrator.memory.fake import FakeCard, Memory
from orchestrator.memory.tracker import Tracker
from orchestrator.memory.workspace import LendingCard

__all__ = ["FakeStage", "Stage"]


class Stage:
    """Performs a step for real, on the CPU; `FakeStage` performs it without memory."""

    def __init__(self, device: torch.device, answers: Answers) -> None:
        self.device = device
        self.answers = answers
        self.is_fake = False

    def place(self, module: nn.Module, part: str, *, is_channels_last: bool) -> None:
        """Put a module on the device, in a layout, and say what it is for."""
        del part
        module.to(self.device)
        if is_channels_last:
            module.to(memory_format=torch.channels_last)

    def place_tensor(self, tensor: Tensor) -> Tensor:
        """Put a tensor on the device."""
        return tensor.to(self.device)

    def labelled(self, part: str) -> AbstractContextManager[None]:
        """What is born inside is for `part`."""
        del part
        return nullcontext()

    def host(self) -> AbstractContextManager[None]:
        """What is made inside is the host's memory."""
        return nullcontext()

    def owns(self, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Say what the optimizer's state is."""

    def begin(self, step: int) -> None:
        """A step begins."""

    def settled(self) -> None:
        """What came and went until now does not count."""

    def chunked(self, assigner: Any) -> None:
        """Make ready an assigner that takes large batches in chunks."""


class _WatchedEngine(Engine):
    def __init__(self, stage: "FakeStage") -> None:
        super().__init__()
        self._stage = stage

    def around(self, node: Any) -> AbstractContextManager[None]:
        return self._stage.tracker.backward_of(node)

    def accumulated(self, gradient: Tensor) -> None:
        self._stage.tracker.relabel(gradient, "gradients")

    def began(self) -> None:
        self._stage.backward_began()

    def ended(self) -> None:
        self._stage.backward_ended()


class FakeStage(Stage):
    """Performs steps on fake tensors and keeps the record of them.

    Args:
        device: That tensors pretend to be on; "cpu" for comparisons with what really happens here.
        answers: For operators whose results depend on data.
        memory: Of earlier traces.
        has_flash: Of the card, see `card_attention`.
    """

    def __init__(
        self, device: torch.device, answers: Answers, memory: Memory, *, has_flash: bool
    ) -> None:
        super().__init__(device, answers)
        self.is_fake = True
        self.tracker = Tracker()
        kind = LendingCard if has_flash and device.type == "cuda" else FakeCard
        self.card = kind(self.tracker, answers, device, memory)
        self._has_flash = has_flash
        self._step = 0
        self._is_backward = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Everything inside is performed on this stage."""
        with ExitStack() as stack:
            stack.enter_context(card_attention(has_flash=self._has_flash))
            stack.enter_context(_WatchedEngine(self).installed())
            stack.enter_context(self.card.entered())
            # Modules are placed already, and the parameters of fakes cannot be exchanged.
            stack.callback(setattr, nn.Module, "to", nn.Module.to)
            kind: Any = nn.Module
            kind.to = lambda module, *_, **__: module
            yield

    @contextmanager
    def followed(self, root: nn.Module, first: nn.Module, last: nn.Module) -> Iterator[None]:
        """Say which module runs; what follows `last` and precedes the backward pass is the loss."""
        handles = [
            first.register_forward_pre_hook(lambda *_: self._turn("activations")),
            last.register_forward_hook(lambda *_: self._turn("loss")),
        ]
        try:
            with self.tracker.watching(root):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _turn(self, part: str) -> None:
        if self._is_backward:  # checkpointing runs modules again
            return
        self.tracker.part = part
        self.tracker.rename_last(f"step{self._step}:update", f"step{self._step}:forward")

    def place(self, module: nn.Module, part: str, *, is_channels_last: bool) -> None:
        """Replace every parameter and buffer by a fake one, born as `.to` would bear them."""
        with self.tracker.labelled(part):
            self._replace(module, lambda t: torch.empty(t.shape, dtype=t.dtype, device=self.device))
            if is_channels_last:
                self._replace(module, _channels_last)

    def _replace(self, module: nn.Module, make: Any) -> None:
        """One tensor at a time, so that the one before is gone, as `nn.Module.to` does it."""
        places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        statistics = _statistics_of(module) if self.tracker.part == "weights" else frozenset()
        for child in module.modules():
            for tensors in (child._parameters, child._buffers):
                for name, value in tensors.items():
                    if value is not None:
                        places.setdefault(id(value), []).append((tensors, name))
        for key, ((first, name), *others) in places.items():
            tensor: Any = first[name]
            with self.tracker.labelled("statistics" if key in statistics else self.tracker.part):
                made = make(tensor)
            if isinstance(tensor, nn.Parameter):
                made = nn.Parameter(made, requires_grad=tensor.requires_grad)
            first[name] = made
            for shared, alias in others:
                shared[alias] = made
            del tensor, made

    def place_tensor(self, tensor: Tensor) -> Tensor:
        """A fake in the place of a tensor on the host."""
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)

    def labelled(self, part: str) -> AbstractContextManager[None]:
        """What is born inside is for `part`."""
        return self.tracker.labelled(part)

    def host(self) -> AbstractContextManager[None]:
        """What is made inside is the host's, even where the host poses as the card."""
        return self.tracker.paused()

    def owns(self, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Say what the optimizer's state is."""
        for state in optimizer.state.values():
            self.tracker.relabel_all(state.values(), "optimizer")
        if scaler.is_enabled():
            self.tracker.relabel_all((scaler._scale, scaler._growth_tracker), "optimizer")

    def begin(self, step: int) -> None:
        """A step begins."""
        self._step = step
        self.tracker.part = "data"
        self.tracker.mark(f"step{step}:forward")

    def backward_began(self) -> None:
        """The gradients of activations are counted as activations."""
        self._is_backward = True
        self.tracker.part = "activations"
        name = f"step{self._step}:backward"
        if not self.tracker.rename_last(f"step{self._step}:update", name):
            self.tracker.mark(name)

    def backward_ended(self) -> None:
        """The update of the weights follows, unless another forward pass does."""
        self._is_backward = False
        self.tracker.part = "workspace"
        self.tracker.mark(f"step{self._step}:update")

    def settled(self) -> None:
        """What came and went until now does not count."""
        self.tracker.forget_dead()

    def chunked(self, assigner: Any) -> None:
        """Let it take the batch at once, and note how many images a chunk would have."""
        in_one_chunk(assigner, self.answers, self.tracker)

    def finish(self, batch: int) -> StepTrace:
        """The record of everything up to now."""
        return self.tracker.finish(batch)


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim != 4:
        return tensor.detach()
    return torch.empty(
        tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=torch.channels_last
    )


def _statistics_of(module: nn.Module) -> frozenset[int]:
    """The ids of the buffers of BatchNorm."""
    return frozenset(
        id(value)
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        for value in child._buffers.values()
    )
