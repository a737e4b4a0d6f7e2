"""What the ranks of a gang tell one another while a YOLO model trains on several cards."""

import torch
from torch import distributed, nn

from orchestrator.types import StopMode

__all__ = ["agreed", "average_gradients", "most_and_least", "share_weights"]


def share_weights(model: nn.Module) -> None:
    """Give every rank the weights of rank 0; each drew first weights of its own."""
    for tensor in model.state_dict().values():
        distributed.broadcast(tensor, src=0)


def average_gradients(model: nn.Module, num_ranks: int) -> None:
    """Replace every gradient by its mean over the ranks, in one reduction.

    A rank without a gradient for a parameter (a batch without objects) counts as zero.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= num_ranks
    means = flat.split([p.numel() for p in parameters])
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean.view_as(parameter)


def agreed(mode: StopMode | None) -> StopMode | None:
    """What rank 0 was asked. All leave at the same step, or those that stay wait for ever."""
    shared = [mode]
    distributed.broadcast_object_list(shared, src=0)
    return shared[0]


def most_and_least(most: int, least: int) -> tuple[int, int]:
    """The largest first number and the smallest second number of all ranks, in one reduction.

    A rank that ran out of memory is known to all before anyone waits for its gradients.
    """
    is_nccl = distributed.get_backend() == "nccl"  # reduces tensors on cards only
    numbers = torch.tensor([most, -least], device="cuda" if is_nccl else "cpu")
    distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX)
    found, negative = numbers.tolist()
    return int(found), -int(negative)
