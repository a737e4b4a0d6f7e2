"""Drives the stub runs of a store to their end on a Ray of its own.

`python -m jobs.stub_driver HOME`. A stub run is one of the fake trainer, whose device is a ledger
of bytes: everything but the training is real, and a worker is up within a second because nothing
imports torch.
"""

import sys
from pathlib import Path

from jobs.parts import LocalParts, list_cards
from orchestrator.device.fake import FakeDevice
from orchestrator.errors import OrchestratorError
from orchestrator.ports import Device
from orchestrator.types import Bytes, Card

__all__ = ["CARDS", "StubParts", "drive_stubs"]

GIB = 1024**3
CARDS = tuple(
    Card(index=index, name=f"Stub {size} GB", memory_bytes=size * GIB, is_emulated=True)
    for index, size in enumerate((6, 16))
)


class StubParts(LocalParts):
    """The parts of this machine, with a device that computes nothing."""

    def device(self, card: Card | None, budget_bytes: Bytes) -> Device:
        """A ledger with the share's capacity."""
        return FakeDevice(budget_bytes, name=card.name if card else "stub")


def drive_stubs(home: Path) -> None:
    """Be the driver of the store in `home` until every run in it has ended."""
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.cluster.session import local_ray
    from orchestrator.console import live
    from orchestrator.driver import drive
    from orchestrator.schedule.standard import standard_scheduler
    from orchestrator.store.sql import SqlStore

    with (
        SqlStore(str(home / "orchestrator.db")) as store,
        store.drive("stub"),
        local_ray(num_cpus=2, cards=CARDS, home=home),
    ):
        cluster = RayCluster(StubParts(), list_cards=list_cards, local_cards=CARDS)
        scheduler = standard_scheduler()
        told = live.observer(scheduler, live.reasons(store))  # why runs wait, for `orc ls`
        drive(scheduler, cluster, store, cluster, observe=told)


if __name__ == "__main__":
    try:
        drive_stubs(Path(sys.argv[1]))
    except OrchestratorError as error:
        print(error.what, *error.why, sep="\n  ", file=sys.stderr)
        sys.exit(error.exit_code)
