"""CPUs and RAM of gangs on cards, told to Ray: one placement group a rank that counts them."""

from typing import Any

from ray.util.placement_group import placement_group, remove_placement_group

from orchestrator.types import AttemptId, Share

__all__ = ["HostShares", "host_resources"]


def host_resources(share: Share) -> dict[str, float]:
    """What a share takes of its node beside a card, in Ray's names; nothing that is not counted."""
    counted = {"CPU": share.num_cpus, "memory": float(share.host_bytes)}
    return {name: amount for name, amount in counted.items() if amount > 0}


class HostShares:
    """Keeps Ray's books of CPUs and RAM equal to the ledger's.

    A worker on a card runs in the bundle of its card, which holds no CPUs and no RAM: it would have
    to be told beforehand how much of them each card will need. So they are booked beside it. The
    worker does not wait for the booking: what Ray would refuse, others than us have taken.
    """

    def __init__(self) -> None:
        self._groups: dict[AttemptId, list[Any]] = {}

    def take(self, attempt: AttemptId, share: Share, ray_id: str) -> None:
        """Book what a share counts on the node with this id of Ray."""
        resources = host_resources(share)
        if resources:
            made = placement_group([resources], bundle_label_selector=[{"ray.io/node-id": ray_id}])
            self._groups.setdefault(attempt, []).append(made)

    def give_back(self, attempt: AttemptId) -> None:
        """The attempt is over."""
        for group in self._groups.pop(attempt, ()):
            remove_placement_group(group)

    def close(self) -> None:
        """Give back everything."""
        for attempt in tuple(self._groups):
            self.give_back(attempt)
