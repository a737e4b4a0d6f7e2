"""One run, driven to its end on a Ray of its own with an emulated card."""

from pathlib import Path

from jobs.parts import LocalParts
from orchestrator.cluster.session import local_ray
from orchestrator.messages import Event, RunSubmitted
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import Card, RunSpec
from tests.ray.conftest import no_real_cards

__all__ = ["driven"]

CARDS = (Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True),)


def driven(spec: RunSpec, scheduler: Scheduler, home: Path) -> list[Event]:
    """Everything that was recorded of the run, in a store in `home`."""
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.driver import drive
    from orchestrator.store.sql import SqlStore

    with (
        SqlStore(str(home / "orchestrator.db")) as store,
        store.drive("test"),
        local_ray(num_cpus=2, cards=CARDS, home=home),
    ):
        store.ask(RunSubmitted(at=0.0, spec=spec))
        cluster = RayCluster(LocalParts(), list_cards=no_real_cards, local_cards=CARDS)
        drive(scheduler, cluster, store, cluster)
        return list(store.replay())
