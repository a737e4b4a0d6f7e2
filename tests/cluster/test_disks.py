"""While a disk is nearly full nothing new starts; whoever waits is told; it ends by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.disks import DiskWatch
from orchestrator.cluster.sim import SimCluster
from orchestrator.driver import drive
from orchestrator.messages import Event, GangStarted, NodeChanged, NodeJoined, RunSubmitted
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.memory import MemoryStore
from orchestrator.types import Card, Explanation, Node, NodeId, PendingReason, RunId, RunState
from tests.strategies import make_spec

GB = 10**9
BOX = Node(
    node_id=NodeId("box"), cards=(Card(index=0, name="Card", memory_bytes=8 * GB),), num_cpus=8.0
)


@dataclass
class Disk:
    """So many bytes are free, as the time of day has it."""

    free_at: Callable[[float], int]
    now: Callable[[], float]

    def __call__(self, folder: Path) -> int:
        assert folder.exists()
        return self.free_at(self.now())


def drill(
    folder: Path, free_at: Callable[[float], int]
) -> tuple[list[Event], list[Explanation], MemoryStore]:
    """Two runs of a whole card, one after the other, on a disk; what happened and was explained."""
    store, scheduler = MemoryStore(), Scheduler()
    for name in ("first", "second"):
        store.ask(RunSubmitted(at=0.0, spec=make_spec(name, gib=None, epochs=3)))
    within = SimCluster([NodeJoined(at=0.0, node=BOX)])
    disk = Disk(free_at, within.now)
    cluster = DiskWatch(within, folders=[folder], reserve_bytes=5 * GB, free=disk)
    events: list[Event] = []
    told: list[Explanation] = []

    def observe(event: Event) -> None:
        events.append(event)
        told.append(scheduler.explain(RunId("second"), event.at))

    drive(scheduler, cluster, store, cluster, observe=observe)
    return events, told, store


def starts(events: list[Event]) -> dict[str, float]:
    return {e.attempt.run_id: e.at for e in events if isinstance(e, GangStarted)}


def test_what_runs_goes_on_what_waits_starts_when_there_is_room(tmp_path: Path) -> None:
    freely = starts(drill(tmp_path, lambda _: 9 * GB)[0])
    full_from, full_to = freely["first"] + 1.0, freely["second"] + 1000.0
    events, told, store = drill(
        tmp_path, lambda now: 2 * GB if full_from <= now < full_to else 9 * GB
    )
    assert starts(events)["first"] == freely["first"]
    assert full_to <= starts(events)["second"] <= full_to + 30.0
    reasons = {one.reason for one in told}
    assert PendingReason.DISK_FULL in reasons
    why = next(one for one in told if one.reason is PendingReason.DISK_FULL)
    assert "nearly full" in why.summary
    assert any("2.0 GB are free, 5.0 GB are kept" in line for line in why.blockers)
    assert all(status.state is RunState.SUCCEEDED for status in store.statuses().values())
    changes = [event.node.shortage for event in events if isinstance(event, NodeChanged)]
    assert len(changes) == 2
    assert changes[1] == ""


def test_a_little_more_than_the_reserve_does_not_come_and_go(tmp_path: Path) -> None:
    def free_at(now: float) -> int:
        if now < 10.0:
            return 2 * GB
        return int(5.2 * GB) if now < 500.0 else 9 * GB

    events, _, _ = drill(tmp_path, free_at)
    assert min(starts(events).values()) >= 500.0


def test_a_node_that_joins_a_full_disk_takes_nothing_either(tmp_path: Path) -> None:
    events, _, store = drill(tmp_path, lambda now: 0 if now < 100.0 else 9 * GB)
    assert min(starts(events).values()) >= 100.0
    assert len(store.statuses()) == 2


def test_the_folder_of_a_run_is_watched_from_its_start_on(tmp_path: Path) -> None:
    seen: list[Path] = []

    def free(folder: Path) -> int:
        seen.append(folder)
        return 9 * GB

    store = MemoryStore()
    spec = make_spec("one", gib=None, epochs=3)
    store.ask(RunSubmitted(at=0.0, spec=spec))
    within = SimCluster([NodeJoined(at=0.0, node=BOX)])
    cluster = DiskWatch(within, folders=[], reserve_bytes=5 * GB, free=free)
    drive(Scheduler(), cluster, store, cluster)
    assert seen
    assert all(Path(spec.folder).is_relative_to(folder) for folder in seen)
