"""Drives the stub runs of a store to their end, on a Ray of its own or on one that runs already.

`python -m jobs.stub_driver HOME [--address HOST:PORT] [--real]`. A stub run is one of the fake
trainer, whose device is a ledger of bytes: everything but the training is real, and a worker is up
within a second because nothing imports torch. The variable ORC_DRILL_DIE_AT names a point at
which the driver kills itself.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.doom import VARIABLE, DoomedStore, Point
from jobs.parts import LocalParts, list_cards
from orchestrator.device.fake import FakeDevice
from orchestrator.errors import OrchestratorError
from orchestrator.ports import Device, Store
from orchestrator.types import Bytes, Card

if TYPE_CHECKING:
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.store.sql import SqlStore

__all__ = ["CARDS", "StubParts", "drive_stubs", "stub_cards"]

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


def stub_cards() -> Sequence[Card]:
    """The cards of every node of a Ray that is joined."""
    return CARDS


def drive_stubs(home: Path, address: str | None = None, *, is_real: bool = False) -> None:
    """Be the driver of the store in `home` until every run in it has ended.

    Args:
        home: The folder of the store.
        address: A Ray that runs already, whose nodes have two emulated cards each.
        is_real: Whether runs are trained for real, on emulated cards.
    """
    from orchestrator.console import live
    from orchestrator.driver import drive
    from orchestrator.schedule.standard import standard_scheduler
    from orchestrator.store.sql import SqlStore

    with (
        SqlStore(str(home / "orchestrator.db")) as store,
        store.drive("stub"),
        _opened(home, address, LocalParts() if is_real else StubParts()) as cluster,
    ):
        scheduler = standard_scheduler()
        told = live.observer(scheduler, live.reasons(store))  # why runs wait, for `orc ls`
        drive(scheduler, cluster, _doomed(store), cluster, observe=told)


@contextmanager
def _opened(home: Path, address: str | None, parts: LocalParts) -> "Iterator[RayCluster]":
    from orchestrator.cluster.pulse import Patience
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.cluster.session import joined_ray, local_ray

    if address is None:
        with local_ray(num_cpus=2, cards=CARDS, home=home):
            yield RayCluster(parts, list_cards=list_cards, local_cards=CARDS)
        return
    floor = 6.0 if isinstance(parts, StubParts) else 60.0  # a real epoch on a busy CPU takes longer
    patience = Patience(start_seconds=90.0, floor_seconds=floor, multiple=6.0, answer_seconds=2.0)
    with joined_ray(address):
        yield RayCluster(parts, list_cards=stub_cards, patience=patience)


def _doomed(store: "SqlStore") -> Store:
    point = os.environ.get(VARIABLE)
    return DoomedStore(store, Point.parse(point)) if point else store


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--real", action="store_true")
    words = parser.parse_args()
    try:
        drive_stubs(words.home, words.address, is_real=words.real)
    except OrchestratorError as error:
        print(error.what, *error.why, sep="\n  ", file=sys.stderr)
        sys.exit(error.exit_code)
