"""Optimizers of 8 bits as far as their memory goes.

bitsandbytes need not be installed: its tensors are laid out as `Optimizer2State.init_state` in
bitsandbytes/optim/optimizer.py (0.45) does it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from orchestrator.errors import ConfigError
from orchestrator.trainer.optimizer_place import EIGHT_BIT

__all__ = ["of_8_bits"]

_LEAST_ELEMENTS = 4096  # smaller tensors keep 32 bits (`min_8bit_size`)
_BLOCK = 256  # elements that share a scale, of 4 bytes
_MOMENTS = (1, 2)  # state tensors of a parameter's size, of the Adam family


def of_8_bits(optimizer: Optimizer) -> Optimizer:
    """The optimizer that takes the place of `optimizer`, which itself is left alone.

    Raises:
        ConfigError: E1124, the optimizer has no such form.
    """
    name = type(optimizer).__name__
    if name not in EIGHT_BIT:
        raise ConfigError(
            f"the optimizer {name} has no form of 8 bits",
            code="E1124",
            fix=(f"optimizer: {' or '.join(EIGHT_BIT)}", "optimizer_state: host"),
        )
    return _Adam8bit([dict(group) for group in optimizer.param_groups], {})


class _Adam8bit(Optimizer):
    """Makes the tensors of its state, and computes nothing."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Run over all parameters that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._make(parameter)

    def _make(self, parameter: Tensor) -> None:
        """In place, but for the first step."""
        state = self.state[parameter]
        if state:
            return
        is_small = parameter.numel() < _LEAST_ELEMENTS
        for number in _MOMENTS:
            state[f"state{number}"] = torch.zeros_like(
                parameter, dtype=torch.float32 if is_small else torch.uint8
            )
            if is_small:
                continue
            shared: Any = self.state.setdefault("maps", {})  # type: ignore[call-overload]
            if number not in shared:  # one table of 256 values a moment, for all
                shared[number] = torch.zeros(256, device=parameter.device)
            state[f"qmap{number}"] = shared[number]
            blocks = -(-parameter.numel() // _BLOCK)
            state[f"absmax{number}"] = torch.zeros(blocks, device=parameter.device)
