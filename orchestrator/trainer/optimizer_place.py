"""Where an optimizer keeps its state: on the card, on the host, or on the card in 8 bits."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer, SparseAdam

from orchestrator.errors import ConfigError
from orchestrator.plan.workload import OptimizerState
from orchestrator.trainer.options_memory import can_8bit

__all__ = ["EIGHT_BIT", "HostMemory", "HostState", "can_lie_on_host", "moved_to_host", "placed"]

EIGHT_BIT: Mapping[str, str] = {"Adam": "Adam8bit", "AdamW": "AdamW8bit"}
"""torch's optimizers and bitsandbytes' forms of them.

Its SGD reads its momentum from `betas`, which no schedule changes, so it is not among them.
"""
_OF_TORCH = ("amsgrad", "capturable", "decoupled_weight_decay", "differentiable", "foreach",
             "fused", "maximize")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """Memory beside the card: `entered` is a context in which what is made is the host's.

    `is_pinned` says that a card copies to and from it on its own, at the full speed of its bus.
    """

    entered: Callable[[], AbstractContextManager[object]] = nullcontext
    is_pinned: bool = False


def placed(optimizer: Optimizer, place: OptimizerState, host: HostMemory) -> Optimizer:
    """The optimizer with its state in that place, to be called before it has a schedule.

    Raises:
        ConfigError: E1123 it cannot keep its state on the host, E1124 it has no form of 8 bits,
            E1125 bitsandbytes is not installed.
    """
    if place is OptimizerState.EIGHT_BIT:
        return _of_8_bits(optimizer)
    if place is OptimizerState.HOST:
        kind = type(optimizer)
        if not can_lie_on_host(optimizer):
            raise ConfigError(
                f"the optimizer {kind.__name__} cannot keep its state on the host",
                code="E1123",
                why=("it does not update one parameter after the other",),
                fix=("optimizer_state: card", "optimizer: AdamW or SGD"),
            )
        moved_to_host(optimizer, host)
    return optimizer


def can_lie_on_host(optimizer: Optimizer) -> bool:
    """True where it updates one parameter after the other, and does not do so on the host yet.

    Others mix what they know of several parameters (norms, matrices orthogonalized together).
    """
    is_separable = type(optimizer).__module__.startswith("torch.optim.")
    return is_separable and not isinstance(optimizer, LBFGS | SparseAdam | HostState)


def moved_to_host(optimizer: Optimizer, host: HostMemory) -> None:
    """Move what state it has, and leave it there: the same object, at any moment of a training."""
    kind = type(optimizer)
    optimizer.__class__ = type(f"{kind.__name__}OnHost", (HostState, kind), {})
    assert isinstance(optimizer, HostState)
    optimizer.host = host
    for state in optimizer.state.values():
        state.update(
            (name, optimizer._back(None, value)) for name, value in _vectors(state).items()
        )
    if "step" in vars(optimizer):  # a schedule of torch's counts steps: by the class it knew
        optimizer.step = MethodType(_counted, optimizer)  # type: ignore[method-assign]


def _counted(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    """The step of its present class, with the mark by which a schedule knows that one was made."""
    optimizer._opt_called = True  # type: ignore[attr-defined]
    return type(optimizer).step(optimizer, *args, **kwargs)


_counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


if TYPE_CHECKING:
    _Mixed = Optimizer
else:
    _Mixed = object


class HostState(_Mixed):
    """Mixed into a class of optimizers: state visits the card one parameter at a time.

    Its tensors live in the host's memory between two updates. What is computed, saved and loaded
    is the same as without.
    """

    host: HostMemory

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have a gradient, one after the other."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            for group in groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.param_groups = [{**group, "params": [parameter]}]
                        self._update(parameter)
        finally:
            self.param_groups = groups
        return loss

    def _update(self, parameter: Tensor) -> None:
        at_home = _vectors(self.state[parameter])
        self.state[parameter].update(
            (name, self._visiting(tensor, parameter.device)) for name, tensor in at_home.items()
        )
        try:
            super().step()
        finally:
            state = self.state[parameter]
            state.update(
                (name, self._back(at_home.get(name), tensor))
                for name, tensor in _vectors(state).items()
            )

    def _visiting(self, tensor: Tensor, device: torch.device) -> Tensor:
        found = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
        )
        with self.host.entered():
            return found.copy_(tensor, non_blocking=self.host.is_pinned)

    def _back(self, home: Tensor | None, tensor: Tensor) -> Tensor:
        with self.host.entered():
            if home is None:
                home = torch.empty_strided(
                    tensor.shape,
                    tensor.stride(),
                    dtype=tensor.dtype,
                    device="cpu",
                    pin_memory=self.host.is_pinned,
                )
            return home.copy_(tensor, non_blocking=self.host.is_pinned)

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer's own; what is on its way from the card has arrived."""
        if self.host.is_pinned:
            torch.cuda.synchronize()
        return super().state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As the optimizer's own, without a stay on the card, where state may have no room."""
        super().load_state_dict({**state_dict, "state": {}})
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        mine = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, mine, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = self._loaded(name, value, parameter)

    def _loaded(self, name: str, value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or name == "step":  # torch counts steps on the host
            return value
        if not value.ndim:
            return value.to(parameter.device)
        with self.host.entered():
            return self._back(None, value.to(parameter.dtype))


def _vectors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is worth a journey: numbers stay where the optimizer put them."""
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.ndim}


def _of_8_bits(optimizer: Optimizer) -> Optimizer:
    name = EIGHT_BIT.get(type(optimizer).__name__)
    if name is None:
        raise ConfigError(
            f"the optimizer {type(optimizer).__name__} has no form of 8 bits",
            code="E1124",
            fix=(f"optimizer: {' or '.join(EIGHT_BIT)}", "optimizer_state: host"),
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not can_8bit() or not all(p.is_cuda for p in parameters):
        raise ConfigError(
            "an optimizer of 8 bits needs bitsandbytes and a GPU",
            code="E1125",
            why=("bitsandbytes is not installed" if not can_8bit() else "this device is no GPU",),
            fix=("pip install bitsandbytes", "optimizer_state: host"),
        )
    groups = [
        {key: value for key, value in group.items() if key not in _OF_TORCH}
        for group in optimizer.param_groups
    ]
    library = importlib.import_module("bitsandbytes.optim")
    made: Optimizer = getattr(library, name)(groups, lr=groups[0]["lr"])
    return made
