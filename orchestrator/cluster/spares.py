"""Worker processes that have trained, are clean, and wait a moment for the next run of their kind.

A process that is kept has its imports, its CUDA context and the pages of its data still; a new one
costs seconds. It keeps its part of the card at Ray too, so it goes as soon as that is needed.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.messages import StartGang
from orchestrator.types import Seconds, Share

__all__ = ["Spares", "key_of"]

_KEPT_SECONDS: Seconds = 8.0  # the next run comes within one; the card's bundle is kept for ten


@dataclass(slots=True)
class _Spare:
    key: Hashable
    place: tuple[str, int | None]
    num_gpus: float
    actor: Any
    until: Seconds


def key_of(order: StartGang, num_gpus: float) -> Hashable:
    """What two orders need in common to be trained in one process; None: it is not kept.

    The same sweep and trainer on the same card with the same share, at Ray too.
    """
    spec, shares = order.spec, order.placement.shares
    if not spec.warm or len(shares) != 1 or shares[0].card is None or shares[0].host_bytes:
        return None
    return (spec.warm, spec.trainer, shares[0], num_gpus)


class Spares:
    """Keeps processes, hands them on, and ends them.

    Args:
        end: Ends the process of an actor.
    """

    def __init__(self, end: Callable[[Any], None] = ray.kill) -> None:
        self._spares: list[_Spare] = []
        self._end = end

    def keep(self, order: StartGang, num_gpus: float, actor: Any, now: Seconds) -> bool:
        """Keep the process of an attempt that has ended; False where nothing could follow in it."""
        key = key_of(order, num_gpus)
        if key is None:
            return False
        place = _place(order.placement.shares[0])
        self._spares.append(_Spare(key, place, num_gpus, actor, now + _KEPT_SECONDS))
        return True

    def take(self, order: StartGang, num_gpus: float, held: float = 1.0) -> Any:
        """A process for an attempt, or None: then those that are in its way are ended.

        Args:
            order: The attempt.
            num_gpus: What its process has to hold of the card at Ray.
            held: What attempts hold of the card then, this one included.
        """
        key = key_of(order, num_gpus)
        for spare in self._spares:
            if key is not None and spare.key == key:
                self._spares.remove(spare)
                return spare.actor
        for share in order.placement.shares:
            place = _place(share)
            for spare in [spare for spare in self._spares if spare.place == place]:
                if held + self._kept(place) <= 1.0:
                    break
                self._drop(spare)
        return None

    def expire(self, now: Seconds) -> None:
        """End those that nothing followed in."""
        for spare in tuple(self._spares):
            if spare.until <= now:
                self._drop(spare)

    def close(self) -> None:
        """End all."""
        for spare in tuple(self._spares):
            self._drop(spare)

    def _kept(self, place: tuple[str, int | None]) -> float:
        return sum(spare.num_gpus for spare in self._spares if spare.place == place)

    def _drop(self, spare: _Spare) -> None:
        self._spares.remove(spare)
        self._end(spare.actor)


def _place(share: Share) -> tuple[str, int | None]:
    return str(share.node_id), share.card
