"""Worker processes that wait a moment: made for runs that are expected, or kept by one that ended.

A process that is kept has its imports, its CUDA context and the pages of its data still; a new one
costs seconds. It keeps its part of the card at Ray too, so it goes as soon as that is needed. One
that is made ahead has the imports, and hardly any part of the card at Ray: its node's cards are
held for us as a whole.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.messages import StartGang
from orchestrator.types import Seconds, Share

__all__ = ["Expected", "Spares", "key_of"]

_KEPT_SECONDS: Seconds = 8.0  # the next run comes within one; the card's bundle is kept for ten
_READY_SECONDS: Seconds = 60.0  # who expects runs plans them meanwhile


@dataclass(frozen=True, slots=True)
class Expected:
    """Runs that will come soon: their trainer, and how many at a time."""

    trainer: str
    count: int


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


def _key_of_ready(
    trainer: str, place: tuple[str, int | None], environment: Mapping[str, str]
) -> Hashable:
    return (trainer, place, tuple(sorted(environment.items())))


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

    def add_ready(
        self,
        trainer: str,
        share: Share,
        environment: Mapping[str, str],
        num_gpus: float,
        actor: Any,
        now: Seconds,
    ) -> None:
        """Have a process that has trained nothing yet, for the first run of the trainer.

        Args:
            trainer: Whose imports it has.
            share: Its card; of its bytes it holds none.
            environment: Its variables, which are those that the run has to ask for.
            num_gpus: What it holds of the card at Ray.
            actor: The process.
            now: The present.
        """
        place = _place(share)
        key = _key_of_ready(trainer, place, environment)
        self._spares.append(_Spare(key, place, num_gpus, actor, now + _READY_SECONDS))

    def take(
        self,
        order: StartGang,
        num_gpus: float,
        held: float = 1.0,
        environment: Mapping[str, str] | None = None,
    ) -> Any:
        """A process for an attempt, or None: then those that are in its way are ended.

        Args:
            order: The attempt.
            num_gpus: What its process has to hold of the card at Ray.
            held: What attempts hold of the card then, this one included.
            environment: Variables of a new process; None asks for one that has trained.
        """
        keys = [key_of(order, num_gpus)]
        shares = order.placement.shares
        if environment is not None and len(shares) == 1 and not shares[0].host_bytes:
            keys.append(_key_of_ready(order.spec.trainer, _place(shares[0]), environment))
        for key in keys:
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

    def places(self) -> frozenset[str]:
        """The nodes where processes wait."""
        return frozenset(node_id for node_id, _ in (spare.place for spare in self._spares))

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
