"""Weights, gradients and optimizer state split over the ranks, for what no single card holds.

PyTorch's `fully_shard` (FSDP2) does it: a block of the model is whole only while it computes. What
is saved is gathered to whole tensors, so that a run may go on with any number of ranks. Each
forward and backward pass talks to the other ranks, so every rank makes as many as every other: the
batch has to divide among them, and a step that runs out of memory cannot be repeated by one rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from orchestrator.errors import ConfigError
from orchestrator.trainer.optimizer_place import HostMemory
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.rates import RATES
from orchestrator.types import BatchPlan, Bytes

__all__ = ["Averages", "check_shares", "gathered", "put", "put_optimizer", "split", "unit_bytes"]

_LEAST_SHARE = 0.02  # of all parameters: a smaller block is not worth a message of its own


def check_shares(batch: BatchPlan) -> None:
    """Refuse shares of different sizes: ranks would make different numbers of forward passes.

    Raises:
        ConfigError: E1133.
    """
    if batch.world_size < 2 or batch.effective_batch % batch.world_size:
        raise ConfigError(
            f"a model that is split over {batch.world_size} ranks cannot train batch"
            f" {batch.effective_batch}",
            code="E1133",
            why=("every rank has to make as many forward passes as every other one",),
            fix=("a batch that divides among 2 GPUs or more", "or ddp.shard: none"),
        )


def split(model: nn.Module, ranks: Ranks, device: torch.device, *, to_host: bool) -> None:
    """Split the parameters of a model on the host, a block at a time, in place.

    Args:
        model: With the same weights on every rank; blocks (children of lists of layers) are whole
            one after the other.
        ranks: That share it.
        device: Where it computes, and where its parts lie unless they lie on the host.
        to_host: Keep parts, their gradients and the optimizer's state in the host's memory.
    """
    mesh = init_device_mesh(device.type, (ranks.count,))
    is_pinned = device.type == "cuda"
    policy = CPUOffloadPolicy(pin_memory=is_pinned) if to_host else OffloadPolicy()
    for block in _worthwhile(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def unit_bytes(model: nn.Module) -> tuple[Bytes, list[Bytes]]:
    """Bytes of the parameters that become whole together: outside of blocks, and of each block."""
    blocks = [_num_bytes(block) for block in _worthwhile(model)]
    return _num_bytes(model) - sum(blocks), blocks


def _num_bytes(module: nn.Module) -> Bytes:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _worthwhile(model: nn.Module) -> Iterator[nn.Module]:
    return _blocks(model, _LEAST_SHARE * sum(p.numel() for p in model.parameters()))


def _blocks(model: nn.Module, least: float) -> Iterator[nn.Module]:
    """Children of lists and sequences of layers, the innermost that are worth it first."""
    for child in model.children():
        inner = list(_blocks(child, least))
        yield from inner
        is_block = isinstance(model, nn.ModuleList | nn.Sequential) and not inner
        is_layer = not isinstance(child, nn.ModuleList)  # a list has no forward pass of its own
        if is_block and is_layer and sum(p.numel() for p in child.parameters()) >= least:
            yield child


def gathered(state: Any, host: HostMemory) -> Any:
    """The same structure with whole tensors on the host in place of parts; all ranks call it."""
    if isinstance(state, DTensor):
        with host.entered():
            return state.full_tensor().detach().cpu()
    if isinstance(state, Mapping):
        return {key: gathered(value, host) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gathered(value, host) for value in state)
    return state


def _scattered(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, where the parts of `like` lie."""
    if not isinstance(like, DTensor):
        return whole.to(like.device)
    mesh, places = like.device_mesh, like.placements
    part = distribute_tensor(whole.to(mesh.device_type), mesh, places, src_data_rank=None)
    return part.to(like.to_local().device)


@torch.no_grad()
def put(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model that is split.

    Raises:
        KeyError: One is missing.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, DTensor):
            _local(tensor).copy_(_local(_scattered(state[name], tensor)))
        elif name in state:
            tensor.copy_(state[name])


def put_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the whole state of an optimizer into that of a model that is split.

    As in `rates.restore_under_own_rates`, its learning rate, momentum and decay stay its own.
    """
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    for group, kept in groups:
        group.update({k: value for k, value in kept.items() if k not in ("params", *RATES)})
        for parameter, number in zip(group["params"], kept["params"], strict=True):
            optimizer.state[parameter] = {
                name: _scattered(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim
                else value
                for name, value in state["state"].get(number, {}).items()
            }


class Averages:
    """The exponential averages of a split model, by the rule of timm's `ModelEmaV3`.

    Args:
        model: That was split.
        decay: As in `ModelEmaV3`, with its warm-up.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._rule = ModelEmaV3(nn.Linear(1, 1), decay=decay, use_warmup=True)
        self._kept = [tensor.detach().clone() for tensor in self._live()]

    def _live(self) -> list[Tensor]:
        parameters = [p.detach() for p in self._model.parameters()]
        return [_local(t) for t in (*parameters, *self._model.buffers())]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an optimizer step."""
        weight = 1.0 - self._rule.get_decay(step)
        for kept, live in zip(self._kept, self._live(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(live, weight)
            else:
                kept.copy_(live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averages for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for kept, live in zip(self._kept, self._live(), strict=True):
            before = live.clone()
            live.copy_(kept)
            kept.copy_(before)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
