"""Running statistics of a cut step: its pieces together move them as far as one batch would.

A layer that normalises by the batch averages what it sees: running = (1 - m) running + m seen,
once a forward pass. A batch in k pieces would do so k times, and what validation computes with
would be the average of the last 1 / m pieces in place of as many batches: of single pictures at
worst. So the piece with the part p of the batch moves them with the momentum 1 - (1 - m) ** p:
after all pieces the old value counts (1 - m) as much as it did, as after the batch itself.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

__all__ = ["paced"]

_Piece = TypeVar("_Piece")
_Loss = TypeVar("_Loss")


def paced(
    model: nn.Module, forward: Callable[[_Piece], _Loss], sizes: Sequence[int]
) -> Callable[[_Piece], _Loss]:
    """A forward for the pieces of a step, in their order, that keeps the pace of the statistics.

    Args:
        model: Its momenta are as before after each piece, whatever is raised.
        forward: Computes the loss of a piece.
        sizes: Samples of each piece.
    """
    if len(sizes) == 1:
        return forward
    norms = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.momentum is not None
    ]  # without a momentum it is the mean of all that was ever seen
    shares = iter([size / sum(sizes) for size in sizes])

    def forward_piece(piece: _Piece) -> _Loss:
        share = next(shares)
        try:
            for norm, momentum in norms:
                norm.momentum = 1.0 - (1.0 - momentum) ** share
            return forward(piece)
        finally:
            for norm, momentum in norms:
                norm.momentum = momentum

    return forward_piece
