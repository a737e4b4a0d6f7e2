"""How a rank cuts its part of a batch, and when its layers work together with those of others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from orchestrator.trainer.microbatch import PieceLoss, even_sizes, piece_sizes
from orchestrator.trainer.norm_pace import paced
from orchestrator.trainer.norm_sync import NormSync, tied
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.reduction import Reduction

__all__ = ["Pieces", "StepCut"]

_Piece = TypeVar("_Piece")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Samples of each piece: of this rank, and of what BatchNorm sees at once.

    A rank of which others have more pieces than it has samples gives 0 to some.
    """

    own: tuple[int, ...]
    seen: tuple[int, ...]

    def of(self, batch: Any, cut: Callable[[Any, Sequence[int]], Sequence[_Piece]]) -> list[_Piece]:
        """Cut a batch; a piece of no samples is one of its samples, to be computed with."""
        found = iter(cut(batch, [size for size in self.own if size]))
        if all(self.own):
            return list(found)
        spare = cut(batch, [1, sum(self.own) - 1])[0]
        return [next(found) if size else spare for size in self.own]


class StepCut:
    """Cuts steps by itself, or, where BatchNorm sees all ranks, into as many pieces as the others.

    Args:
        model: Where it trains; copies whose layers are to be plain were made before.
        micro_batch: Samples of a piece as it was planned.
        ranks: Of the gang.
        reduction: Of the gang's gradients, which then are sent after the backward pass: ranks
            make one sum at a time.
        is_told: As `NormSync` has it.
        is_synced: Let BatchNorm see all ranks, if there are others and the model has any.
    """

    def __init__(
        self,
        model: nn.Module,
        micro_batch: int,
        ranks: Ranks | None = None,
        *,
        reduction: Reduction | None = None,
        is_told: bool = True,
        is_synced: bool = False,
    ) -> None:
        self._model, self.planned = model, micro_batch
        self._ranks = ranks
        self._sync: NormSync | None = None
        if is_synced and ranks is not None and ranks.count > 1:
            sync = NormSync(model, ranks, is_told=is_told)
            self._sync = sync if sync.num_layers else None
        if self._sync is not None and reduction is not None:
            reduction.join(self._sync.lockstep)

    @property
    def can_repeat(self) -> bool:
        """False where a rank that runs out of memory cannot tell the others in a step."""
        return self._sync is None or self._sync.lockstep.is_told

    @property
    def is_together(self) -> bool:
        """True when the layers of all ranks work together."""
        return self._sync is not None

    @property
    def is_counted(self) -> bool:
        """False while a piece is computed in which this rank has no samples."""
        return self._sync is None or self._sync.is_counted

    def pieces(self, num_own: int, num_all: int, micro_batch: int) -> Pieces:
        """The pieces of a step of at most `micro_batch` samples.

        Args:
            num_own: Samples of this rank.
            num_all: Samples of all ranks; the first ranks have one more than the last.
            micro_batch: The same on every rank.
        """
        if self._sync is None or self._ranks is None:
            sizes_of = piece_sizes if micro_batch == self.planned else even_sizes
            own = sizes_of(num_own, micro_batch)
            return Pieces(own, own)
        ranks = self._ranks
        shares = [len(ranks.part_of(rank, num_all)) for rank in range(ranks.count)]
        assert shares[ranks.rank] == num_own
        number = len(piece_sizes(shares[0], micro_batch))  # the first rank has most
        sizes = [tuple(_even(share, number)) for share in shares]
        return Pieces(sizes[ranks.rank], tuple(map(sum, zip(*sizes, strict=True))))

    def step(self) -> AbstractContextManager[None]:
        """Around all forward and backward passes of a step."""
        return nullcontext() if self._sync is None else self._sync.lockstep.step()

    def of_all(self, numbers: Tensor) -> Tensor:
        """Numbers summed over the ranks whose layers work together; inside of `step`."""
        if self._sync is None:
            return numbers
        return self._sync.lockstep.summed(numbers).to(numbers.dtype)

    def piece(self, size: int) -> AbstractContextManager[None]:
        """Around the passes of one piece that has so many samples of this rank."""
        return nullcontext() if self._sync is None else self._sync.counting(is_counted=size > 0)

    def around(
        self, inner: Callable[[bool], AbstractContextManager[None]] | None, pieces: Pieces
    ) -> Callable[[bool], AbstractContextManager[None]] | None:
        """For `run_pieces`: the context of one piece after the other, with another one inside."""
        if self._sync is None:
            return inner
        sizes = iter(pieces.own)

        @contextmanager
        def piece(is_last: bool) -> Iterator[None]:  # noqa: FBT001 - as `run_pieces` asks
            with self.piece(next(sizes)), nullcontext() if inner is None else inner(is_last):
                yield

        return piece

    def forward(
        self, forward: Callable[[_Piece], PieceLoss], pieces: Pieces
    ) -> Callable[[_Piece], PieceLoss]:
        """A forward for one piece after the other: in pace, and without what does not count."""
        in_pace = paced(self._model, forward, pieces.seen)
        if all(pieces.own):
            return in_pace

        def counted(piece: _Piece) -> PieceLoss:
            loss = in_pace(piece)
            if self.is_counted:
                return loss
            nothing = tied(torch.zeros_like(loss.value), (loss.value,))
            share = 0.0 if loss.share is None else loss.share
            return replace(loss, value=nothing, divisor=0.0, share=share)

        return counted


def _even(num_samples: int, number: int) -> Iterator[int]:
    """So many sizes, the larger ones first."""
    least, rest = divmod(num_samples, number)
    yield from (least + (place < rest) for place in range(number))
