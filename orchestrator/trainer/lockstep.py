"""Sums over the ranks in the middle of a step, and how a rank says there that it cannot go on.

A rank that runs out of memory between two sums would leave the others waiting in the next one. So
on the host every sum of a step has one and the same size and a place for a flag, and every step
ends with one more sum: whoever fails takes part in whatever sum comes next, with the flag, and the
others leave the step there. Then all agree how to repeat it, as after any step.

    sum ... sum ... sum, the end of the step        each [flag, numbers, zeros]

On a card a sum is a kernel that waits for the other cards, and reading a flag from it would stop
the card at every layer. There the rank that fails ends the attempt, and with it the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from orchestrator.trainer.ranks import Ranks

__all__ = ["Lockstep", "OtherRankFailed"]


class OtherRankFailed(distributed.DistError):
    """Another rank cannot end the step; this one leaves it at the same sum.

    Where the step cannot be repeated the attempt ends, and the cause is told by the other rank.
    """


class Lockstep:
    """The sums of one rank's steps; every rank makes equally many in the same order.

    Args:
        ranks: Of the gang.
        most: Numbers of the largest sum.
        is_told: Ranks hear of one another's failures; not for sums of tensors on cards, nor where
            a step makes sums beside these.
    """

    def __init__(self, ranks: Ranks, most: int, *, is_told: bool) -> None:
        self._ranks = ranks
        self._has_left = False
        # There from the beginning: who ran out of memory has none to say so.
        self._sums = torch.zeros(1 + most, dtype=torch.float64) if is_told else None

    @property
    def is_told(self) -> bool:
        """True when ranks hear of one another's failures in the middle of a step."""
        return self._sums is not None

    def summed(self, numbers: Tensor) -> Tensor:
        """Numbers (N,) summed over the ranks: on the host in double precision.

        Raises:
            OtherRankFailed: A rank cannot end the step.
        """
        if self._sums is None:
            found = numbers.clone()
            distributed.all_reduce(found)
            return found
        self._sums.zero_()
        self._sums[1 : 1 + len(numbers)] = numbers
        self._meet(self._sums)
        return self._sums[1 : 1 + len(numbers)].clone()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around the forward and backward passes of a step.

        Raises:
            OtherRankFailed: As `summed`.
        """
        self._has_left = False
        try:
            yield
            if self._sums is not None:
                self._meet(self._sums.zero_())
        except Exception:
            if self._sums is not None and not self._has_left:
                self._sums.zero_()
                self._sums[0] = 1.0
                self._ranks.add_up(self._sums)
            raise

    def _meet(self, sums: Tensor) -> None:
        self._ranks.add_up(sums)
        if sums[0] > 0.0:
            self._has_left = True
            raise OtherRankFailed("another rank cannot end the step")
