"""Optimizers whose state is small on the card, as far as their memory goes: 8 bit, or on the host.

bitsandbytes need not be installed: its tensors are laid out as `Optimizer2State.init_state` and
`Optimizer1State.init_state` in bitsandbytes/optim/optimizer.py (0.45) do it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from orchestrator.errors import ConfigError
from orchestrator.plan.workload import OptimizerState

__all__ = ["lightened"]

_LEAST_ELEMENTS = 4096  # smaller tensors keep 32 bits (`min_8bit_size`)
_BLOCK = 256  # elements that share a scale, of 4 bytes
_MOMENTS: Mapping[str, int] = {  # state tensors of a parameter's size
    "adam": 2,
    "adamw": 2,
    "lamb": 2,
    "sgd": 1,
    "rmsprop": 1,
    "lion": 1,
    "adagrad": 1,
}


def lightened(optimizer: Optimizer, kind: OptimizerState, name: str) -> Optimizer:
    """The optimizer that takes the place of `optimizer`, which itself is left alone.

    Raises:
        ConfigError: E2134, the optimizer has no such form.
    """
    if kind is OptimizerState.CARD:
        return optimizer
    key = name.lower().removesuffix("_")
    moments = _MOMENTS.get(key)
    if moments is None:
        raise ConfigError(
            f"the optimizer {name} cannot keep its state in 8 bits or on the host",
            code="E2134",
            fix=(f"one of: {', '.join(_MOMENTS)}",),
        )
    groups = [dict(group) for group in optimizer.param_groups]
    make = _eight_bit if kind is OptimizerState.EIGHT_BIT else _host
    return _Light(groups, make, moments)


class _Light(Optimizer):
    """Makes and frees the tensors of a step, and computes nothing."""

    def __init__(self, groups: Any, make: Callable[[Any, Tensor, int], None], moments: int) -> None:
        super().__init__(groups, {})
        self._make, self._moments = make, moments

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Run over all parameters that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._make(self.state, parameter, self._moments)


def _eight_bit(states: Any, parameter: Tensor, moments: int) -> None:
    """In place, but for the first step."""
    state = states[parameter]
    if state:
        return
    is_small = parameter.numel() < _LEAST_ELEMENTS
    for number in range(1, moments + 1):
        state[f"state{number}"] = torch.zeros_like(
            parameter, dtype=torch.float32 if is_small else torch.uint8
        )
        if is_small:
            continue
        shared = states.setdefault("maps", {})  # one table of 256 values a moment, for all
        if number not in shared:
            shared[number] = torch.zeros(256, device=parameter.device)
        state[f"qmap{number}"] = shared[number]
        blocks = -(-parameter.numel() // _BLOCK)
        state[f"absmax{number}"] = torch.zeros(blocks, device=parameter.device)


def _host(states: Any, parameter: Tensor, moments: int) -> None:
    """The state of one parameter at a time visits the card."""
    del states
    visiting = [torch.empty_like(parameter) for _ in range(moments)]
    update = torch.empty_like(parameter)
    del visiting, update
