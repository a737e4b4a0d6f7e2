"""Who trains beside whom on which card, and which epochs tell how fast that is.

An epoch tells of its company only if nobody came to any card of the run, or left it, from its
first step to its last. The first of an attempt is marked: caches fill and kernels are chosen in
it. Epochs of gangs of several cards tell nothing, but their workers are company.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.schedule.assign import Kind, Signature
from orchestrator.schedule.throughput import Sample
from orchestrator.types import NodeId, Progress, RunId, Seconds

__all__ = ["Company", "Place"]

Place: TypeAlias = tuple[NodeId, int]  # node and index of a card


@dataclass(slots=True)
class _Guest:
    signature: Signature
    kind: Kind
    places: tuple[Place, ...]
    unchanged_since: Seconds
    epoch_began: Seconds
    num_epochs: int = 0


class Company:
    """All runs that train now; changed by `came`, `left`, `recut` and `completed` only."""

    def __init__(self) -> None:
        self._guests: dict[RunId, _Guest] = {}
        self._there: dict[Place, dict[RunId, None]] = {}

    def came(
        self,
        run_id: RunId,
        signature: Signature,
        kind: Kind,
        places: Iterable[Place],
        at: Seconds,
    ) -> None:
        """A run begins to train on cards of a kind: all its workers are up."""
        guest = _Guest(signature, kind, tuple(places), at, at)
        self._guests[run_id] = guest
        for place in guest.places:
            self._there.setdefault(place, {})[run_id] = None
        self._change(guest, at)

    def left(self, run_id: RunId, at: Seconds) -> None:
        """A run trains no more; nothing happens when it did not."""
        guest = self._guests.get(run_id)
        if guest is None:
            return
        self._change(guest, at)
        del self._guests[run_id]
        for place in guest.places:
            del self._there[place][run_id]
            if not self._there[place]:
                del self._there[place]

    def recut(self, run_id: RunId, signature: Signature, at: Seconds) -> None:
        """A run cuts its steps otherwise: for itself and its company that is a change."""
        guest = self._guests.get(run_id)
        if guest is not None and guest.signature != signature:
            guest.signature = signature
            self._change(guest, at)

    def beside(self, run_id: RunId) -> tuple[Signature, ...]:
        """Signatures of the other runs on the cards of a run, sorted."""
        places = self._guests[run_id].places
        others = {other for place in places for other in self._there[place] if other != run_id}
        return tuple(sorted(self._guests[other].signature for other in others))

    def completed(self, run_id: RunId, progress: Progress, at: Seconds) -> Sample | None:
        """What an epoch that ended at `at` tells; None when it tells nothing."""
        guest = self._guests.get(run_id)
        if guest is None:
            return None
        is_first = guest.num_epochs == 0
        began = guest.epoch_began if is_first else min(guest.epoch_began, at - progress.seconds)
        guest.epoch_began, guest.num_epochs = at, guest.num_epochs + 1
        is_steady = guest.unchanged_since <= began and not progress.num_recuts
        if len(guest.places) != 1 or progress.seconds <= 0 or not is_steady:
            return None
        return Sample(
            signature=guest.signature,
            kind=guest.kind,
            images_per_second=progress.num_images / progress.seconds,
            beside=self.beside(run_id),
            is_first=is_first,
        )

    def _change(self, guest: _Guest, at: Seconds) -> None:
        for place in guest.places:
            for run_id in self._there[place]:
                self._guests[run_id].unchanged_since = at
