"""The whole batch that pieces and ranks are parts of: its images, its divisors, its loss items."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from orchestrator.trainer.norm_sync import tied
from orchestrator.trainer.reduction import Reduction
from orchestrator.trainer.yolo_heads import (
    DIVISORS,
    Divisors,
    Head,
    at_least_one,
    total_of,
    whole_items,
)

__all__ = ["NUM_DIVISORS", "Record", "Run", "WholeBatch", "of_all_ranks"]

_KINDS = ("scores", "anchors", "points", "images")
NUM_DIVISORS = 2 * len(_KINDS)
"""Numbers that the ranks of a gang sum in a step: what up to two heads divide by."""

Record: TypeAlias = list[tuple[dict[str, Tensor], Divisors, Tensor]]
"""Of one piece, by head: loss items, what its terms were divided by, terms of the whole's size."""
Run: TypeAlias = tuple[Head, Tensor, dict[str, Tensor]]
"""Of one piece and head: terms with their graph, loss items."""


class WholeBatch:
    """What a step knows of the batch beyond the piece at hand.

    Args:
        trainer: Tells `images_of_step` where there are several ranks.
        reduction: Of the gradients of a gang; None where there is one rank.
    """

    def __init__(self, trainer: Any, reduction: Reduction | None) -> None:
        self._trainer = trainer
        self._reduction = reduction
        self._totals: list[Divisors] = []  # of the present step, by head

    @property
    def is_shared(self) -> bool:
        """True when other ranks have parts of it."""
        return self._reduction is not None

    def begin(self) -> None:
        """A step begins, or is repeated."""
        if self._reduction is not None:
            self._reduction.begin()

    def around(self, is_last: bool) -> AbstractContextManager[None]:  # noqa: FBT001 - as `run_pieces` asks
        """The context of a piece."""
        return nullcontext() if self._reduction is None else self._reduction.around(is_last)

    def num_images(self, num_images: int) -> int:
        """Its images, of which this rank has `num_images`."""
        return num_images if self._reduction is None else int(self._trainer.images_of_step())

    def divisors_of(self, records: Sequence[Record]) -> list[Divisors]:
        """What each head divides by, once every piece has run forward."""
        return self.divisors([[part[1] for part in head] for head in zip(*records, strict=True)])

    def divisors(self, seen: Sequence[Sequence[Divisors]]) -> list[Divisors]:
        """The sums over pieces and ranks, once in a step.

        Args:
            seen: What each piece of this rank divided by, by head.
        """
        if self._reduction is None:
            self._totals = [total_of(parts) for parts in seen]
            return self._totals
        rows = [[sum(p.get(kind, 0.0) for p in parts) for kind in _KINDS] for parts in seen]
        numbers = torch.zeros(NUM_DIVISORS)
        like = next((v for row in rows for v in row if isinstance(v, Tensor)), numbers)
        flat = [
            torch.as_tensor(v, device=like.device, dtype=numbers.dtype) for r in rows for v in r
        ]
        missing = [numbers.to(like.device)[: NUM_DIVISORS - len(flat)]]
        sums = self._reduction.exchanged(torch.cat([torch.stack(flat), *missing]))
        found = sums.split(len(_KINDS))[: len(seen)]
        self._totals = [total_of([dict(zip(_KINDS, row, strict=True))]) for row in found]
        return self._totals

    def summed(
        self, records: Sequence[Record], gains: Sequence[float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss terms, and loss items: the last head's, as reported. Of a gang, this rank's part."""
        whole: list[Tensor] = []
        items: dict[str, Tensor] = {}
        for number, gain in enumerate(gains):
            pieces = [record[number] for record in records]
            total = self._totals[number]
            weights: list[Mapping[str, Any]] = [
                {kind: at_least_one(seen[kind]) / at_least_one(total[kind]) for kind in seen}
                for _, seen, _ in pieces
            ]
            kinds = [DIVISORS[name] for name in pieces[0][0]]
            for (_, _, terms), weight in zip(pieces, weights, strict=True):
                factors = [weight[kind] * gain for kind in kinds]
                whole.append(_sum_of(t * f for t, f in zip(terms.unbind(), factors, strict=True)))
            items = whole_items(((terms, seen) for terms, seen, _ in pieces), total)
        return _sum_of(whole), items


def of_all_ranks(runs: Sequence[Run], predictions: Any, *, is_counted: bool) -> list[Run]:
    """A piece in which layers of all ranks work together.

    Its backward pass visits all that was predicted: without an object in the piece, the loss
    leaves the boxes out.

    Args:
        runs: Of each head.
        predictions: Tensors, in mappings and sequences.
        is_counted: False where this rank has no image in the piece: nothing is left of its loss.
    """
    outputs = tuple(_tensors(predictions))
    found: list[Run] = []
    for head, terms, items in runs:
        value, told = terms, items
        if not is_counted:
            head.seen.update({kind: seen * 0.0 for kind, seen in head.seen.items()})
            value = torch.zeros_like(terms)
            told = {name: torch.zeros_like(item) for name, item in items.items()}
        found.append((head, value if found else tied(value, outputs), told))
    return found


def _tensors(predictions: Any) -> Iterator[Tensor]:
    if isinstance(predictions, Tensor):
        if predictions.requires_grad:
            yield predictions
    elif isinstance(predictions, Mapping):
        for value in predictions.values():
            yield from _tensors(value)
    elif isinstance(predictions, list | tuple):
        for value in predictions:
            yield from _tensors(value)


def _sum_of(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
