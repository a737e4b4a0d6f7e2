"""A store with runs in every state, made by the real driver over a simulated cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.cluster.sim import SimCluster
from orchestrator.console.live import observer, reasons
from orchestrator.driver import drive
from orchestrator.messages import Event, NodeJoined
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import (
    Bytes,
    Card,
    Node,
    NodeId,
    RunId,
    RunSpec,
    RunState,
    RunStatus,
    TrainSettings,
)

__all__ = ["GIB", "STATES", "Filled", "Stop", "drive_store", "make_spec", "make_store"]

GIB: Bytes = 1 << 30
CARDS = (
    Card(index=0, name="RTX 2060", memory_bytes=6 * GIB, is_emulated=True),
    Card(index=1, name="RTX 4080 SUPER", memory_bytes=16 * GIB, is_emulated=True),
)


class Stop(Exception):  # noqa: N818 - it is the power cut of a test, not an error of the product
    """The driver's process ends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The home of a store and its runs by the state that they were left in."""

    client: Client
    ids: dict[str, RunId]


def make_spec(
    name: str,
    *,
    memory: Bytes | None = None,
    epochs: int = 3,
    priority: int = 50,
    **options: float,
) -> RunSpec:
    """A run of the fake trainer; its id ends with the project's name."""
    run_id = RunId(f"20261121-04193{len(name) % 10}-calm-otter-{name}")
    return RunSpec(
        run_id=run_id,
        project=name,
        trainer="fake",
        settings=TrainSettings(
            model="fake",
            data="none",
            imgsz=64,
            epochs=epochs,
            options={"epoch_seconds": 60.0, **options},
        ),
        effective_batch=16,
        folder=f"/nowhere/{name}/{run_id}",
        memory_bytes=memory,
        priority=priority,
    )


def drive_store(client: Client, num_events: int | None = None) -> None:
    """Drive the store in virtual time to its end, or die after so many events."""
    node = Node(node_id=NodeId("box"), cards=CARDS, num_cpus=8.0)
    cluster = SimCluster([NodeJoined(at=0.0, node=node)])
    seen: list[Event] = []

    def count(event: Event, _statuses: Sequence[RunStatus]) -> None:
        seen.append(event)
        if len(seen) == num_events:
            raise Stop

    scheduler = Scheduler()
    with client.store() as store, store.drive("test"):
        observe = observer(scheduler, reasons(store), count)
        try:
            drive(scheduler, cluster, store, cluster, observe=observe)
        except Stop:
            return


def make_store(home: Path) -> Filled:
    """Runs that succeeded, failed, were stopped, run, wait, wait for ever, and were just asked."""
    client = Client(home, clock=lambda: 1000.0)
    ended = [
        make_spec("good"),
        make_spec("bad", fail_at_epoch=2),
        make_spec("tiny", memory=GIB, epochs=2),
    ]
    stopped = make_spec("stopped", epochs=5)
    client.submit([*ended, stopped])
    drive_store(client, num_events=6)
    client.stop(stopped.run_id)
    drive_store(client)
    living = [
        make_spec("running", epochs=50, memory=5 * GIB),
        make_spec("waiting", epochs=50, memory=15 * GIB, priority=40),
        make_spec("huge", memory=40 * GIB, priority=10),
        make_spec("blocker", epochs=50, memory=15 * GIB, priority=60),
    ]
    client.submit(living)
    drive_store(client, num_events=14)
    asked = make_spec("asked")
    client.submit([asked])
    specs = [*ended, stopped, *living, asked]
    return Filled(client=client, ids={spec.project: spec.run_id for spec in specs})


STATES = {
    "good": RunState.SUCCEEDED,
    "bad": RunState.FAILED,
    "tiny": RunState.SUCCEEDED,
    "stopped": RunState.CANCELLED,
    "running": RunState.RUNNING,
    "waiting": RunState.PENDING,
    "huge": RunState.PENDING,
    "blocker": RunState.RUNNING,
    "asked": RunState.PENDING,
}
