"""Memory that is never given back: bytes alive after each epoch that grow without end."""

import statistics
from collections.abc import Sequence
from itertools import combinations, pairwise

from orchestrator.types import Bytes

__all__ = ["growth"]

_LEAST_EPOCHS = 5  # with the first one or two, where caches fill, the rest can still be judged
_LEAST_BYTES = 100 << 20
_LEAST_RISES = 0.8  # share of epochs after which there was more than before


def growth(live: Sequence[Bytes]) -> Bytes:
    """Bytes by which the memory grows each epoch; 0 when it does not leak.

    The slope is the median over all pairs of epochs (Theil, 1950; Sen, 1968), which up to 29 % of
    odd epochs cannot move. It counts as a leak when it adds up to more than 100 MiB over the
    epochs seen and nearly every epoch ends with more than the one before.

    Args:
        live: Bytes alive at the end of each epoch, in order.
    """
    if len(live) < _LEAST_EPOCHS:
        return 0
    slope = statistics.median(
        (later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(live), 2)
    )
    rises = sum(after > before for before, after in pairwise(live))
    is_steady = rises >= _LEAST_RISES * (len(live) - 1)
    return round(slope) if is_steady and slope * (len(live) - 1) > _LEAST_BYTES else 0
