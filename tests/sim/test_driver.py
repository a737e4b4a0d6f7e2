"""The driver may die anywhere: nothing is lost, nothing is counted twice, nothing is dropped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster.sim import SimCluster
from orchestrator.driver import drive
from orchestrator.errors import TransitionError
from orchestrator.messages import (
    Action,
    CancelRequested,
    Event,
    GangFinished,
    GangStarted,
    GangYielded,
    NodeJoined,
    ProgressReported,
    ResumeRequested,
    RunSubmitted,
    StartGang,
    StepReported,
    TimePassed,
)
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.memory import MemoryStore
from orchestrator.types import (
    AttemptId,
    DeviceKind,
    Finding,
    Progress,
    RunId,
    RunState,
    RunStatus,
    StepProgress,
)
from tests.strategies import GIB, make_node, make_spec

NODES = (
    make_node("a", ("RTX 2060", 6 * GIB), ("RTX 2060", 6 * GIB)),
    make_node("b", ("A100", 40 * GIB)),
)
SPECS = (
    make_spec("whole"),
    make_spec("pair", num_gpus=2, gpu_types=("rtx2060",)),
    make_spec("shared", gib=3),
    make_spec("urgent", gib=30, priority=90),
    make_spec("wrong", gib=3, options={"fail_at_epoch": 2, "fault_attempts": 1}),
    make_spec("cpu", device=DeviceKind.CPU, num_cpus=2.0),
)


class DriverDiedError(Exception):
    """Planted; not an error of the product."""


class Bomb:
    """Goes off at the n-th operation, before or after it took effect."""

    def __init__(self, at: int) -> None:
        self.left = at

    def around(self, operation: Callable[..., Any], *args: Any) -> Any:
        self.tick()
        result = operation(*args)
        self.tick()
        return result

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise DriverDiedError


class FragileStore:
    """A store during whose operations the driver may die."""

    def __init__(self, store: MemoryStore, bomb: Bomb) -> None:
        self._store, self._bomb = store, bomb

    def append(self, event: Event) -> bool:
        return bool(self._bomb.around(self._store.append, event))

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        self._bomb.around(self._store.publish, statuses)

    def receive(self, at: float) -> Sequence[Event]:
        events: Sequence[Event] = self._bomb.around(self._store.receive, at)
        return events

    def replay(self) -> Iterator[Event]:
        return self._store.replay()

    def findings(self, model: str | None = None) -> Sequence[Finding]:
        return self._store.findings(model)


class FragileCluster:
    """A cluster during whose operations the driver may die."""

    def __init__(self, cluster: SimCluster, bomb: Bomb) -> None:
        self._cluster, self._bomb = cluster, bomb

    def apply(self, action: Action) -> None:
        self._bomb.around(self._cluster.apply, action)

    def wait(self, until: float | None) -> Sequence[Event]:
        events: Sequence[Event] = self._bomb.around(self._cluster.wait, until)
        return events


def prepared() -> tuple[MemoryStore, SimCluster]:
    store = MemoryStore()
    for spec in SPECS:
        store.ask(RunSubmitted(at=0.0, spec=spec), spec.run_id)
    return store, SimCluster([NodeJoined(at=0.0, node=node) for node in NODES])


def live_until_done(store: MemoryStore, cluster: SimCluster, bombs: Sequence[int]) -> int:
    """Drive; after each death a new driver starts on the same store. Returns the deaths."""
    deaths = 0
    for at in (*bombs, 10**9):
        bomb = Bomb(at)
        try:
            drive(Scheduler(), FragileCluster(cluster, bomb), FragileStore(store, bomb), cluster)
        except DriverDiedError:
            deaths += 1
            cluster.restart()
        else:
            return deaths
    raise AssertionError("never done")


def check_outcome(store: MemoryStore) -> None:
    statuses = store.statuses()
    assert set(statuses) == {spec.run_id for spec in SPECS}, "a run is lost"
    for status in statuses.values():
        assert status.state is RunState.SUCCEEDED, status
        rows = store.progress(status.run_id)
        assert [row.epoch for row in rows] == list(range(1, status.epochs + 1))
        finished = [
            event
            for event in store.replay()
            if isinstance(event, GangFinished) and event.attempt.run_id == status.run_id
        ]
        assert len(finished) == 1, "a result is counted once"


def num_operations() -> int:
    store, cluster = prepared()
    bomb = Bomb(10**9)
    drive(Scheduler(), FragileCluster(cluster, bomb), FragileStore(store, bomb), cluster)
    return 10**9 - bomb.left


@pytest.mark.parametrize("first", range(4))
def test_the_driver_may_die_before_or_after_any_operation(first: int) -> None:
    for at in range(1 + first, num_operations() + 1, 4):
        store, cluster = prepared()
        assert live_until_done(store, cluster, [at]) == 1
        check_outcome(store)


@pytest.mark.parametrize("every", [23, 40, 71, 110])
def test_the_driver_may_die_again_and_again(every: int) -> None:
    store, cluster = prepared()
    assert live_until_done(store, cluster, [every] * 60) > 1
    check_outcome(store)


def test_a_driver_that_comes_back_to_finished_work_has_nothing_to_do() -> None:
    store, cluster = prepared()
    drive(Scheduler(), cluster, store, cluster)
    before = {run_id: status.state for run_id, status in store.statuses().items()}
    cluster.restart()
    drive(Scheduler(), cluster, store, cluster)
    assert {run_id: status.state for run_id, status in store.statuses().items()} == before


class StoreThatDiesAtProgress(MemoryStore):
    """The driver dies just before an epoch is recorded, a number of times."""

    def __init__(self, deaths: int) -> None:
        super().__init__()
        self.left = deaths

    def append(self, event: Event) -> bool:
        if isinstance(event, ProgressReported) and self.left:
            self.left -= 1
            raise DriverDiedError
        return super().append(event)


class TryingCluster(SimCluster):
    """Its gangs tell with their first epoch that they have tried a setting."""

    def __init__(self, events: Sequence[Event], found: Finding) -> None:
        super().__init__(events)
        self._found = found
        self.told: dict[str, tuple[Finding, ...]] = {}  # by run, what its gang was told

    def apply(self, action: Action) -> None:
        if isinstance(action, StartGang):
            self.told[action.spec.run_id] = action.findings
        super().apply(action)

    def wait(self, until: float | None) -> Sequence[Event]:
        return [self._with_finding(event) for event in super().wait(until)]

    def _with_finding(self, event: Event) -> Event:
        if not isinstance(event, ProgressReported) or event.progress.epoch > 1:
            return event
        return replace(event, progress=replace(event.progress, findings=(self._found,)))


def test_who_leaves_a_setting_to_a_measurement_is_told_what_runs_before_have_found() -> None:
    specs = [
        replace(
            make_spec(name),
            settings=replace(make_spec(name).settings, options={"auto": "workers"} if auto else {}),
            after=after,
        )
        for name, after, auto in (
            ("first", (), True),
            ("second", (RunId("first"),), True),
            ("decided", (RunId("first"),), False),
        )
    ]
    found = Finding(
        trainer="fake",
        card="A100",
        model=specs[0].settings.model,
        kind="imgsz=64",
        name="workers",
        value=3,
        told="a step takes 3 ms",
    )
    store = MemoryStore()
    for spec in specs:
        store.ask(RunSubmitted(at=0.0, spec=spec))
    cluster = TryingCluster([NodeJoined(at=0.0, node=node) for node in NODES], found)
    drive(Scheduler(), cluster, store, cluster)
    assert cluster.told == {"first": (), "second": (found,), "decided": ()}


def test_deaths_of_the_driver_cost_a_run_none_of_its_retries() -> None:
    spec = make_spec("r", epochs=1)
    store = StoreThatDiesAtProgress(3 * spec.retry.losses_without_progress)
    store.ask(RunSubmitted(at=0.0, spec=spec))
    cluster = SimCluster([NodeJoined(at=0.0, node=NODES[0])])
    while store.left:
        with pytest.raises(DriverDiedError):
            drive(Scheduler(), cluster, store, cluster)
        cluster.restart()
    drive(Scheduler(), cluster, store, cluster)
    assert store.statuses()[spec.run_id].state is RunState.SUCCEEDED


def test_volatile_events_are_seen_and_neither_stored_nor_handled() -> None:
    store = MemoryStore()
    spec = make_spec("r", epochs=1)
    store.ask(RunSubmitted(at=0.0, spec=spec))
    step = StepReported(
        at=9.0,
        attempt=AttemptId(run_id=spec.run_id, number=1),
        step=StepProgress(epoch=1, epochs=1, step=1, num_steps=2, images_per_second=1.0),
    )
    cluster = SimCluster([NodeJoined(at=0.0, node=NODES[0]), step])
    seen: list[Event] = []
    drive(Scheduler(), cluster, store, cluster, observe=seen.append)
    assert step in seen
    assert step not in list(store.replay())
    assert [type(event) for event in seen if not event.is_volatile] == [
        type(event) for event in store.replay()
    ]


def test_what_is_fenced_off_is_neither_handled_nor_observed() -> None:
    store = MemoryStore()
    spec = make_spec("r", epochs=1)
    store.ask(RunSubmitted(at=0.0, spec=spec))
    stale = ProgressReported(
        at=500.0,
        attempt=AttemptId(run_id=spec.run_id, number=7),
        progress=Progress(epoch=1, epochs=1, metrics={}, seconds=1.0, num_images=1),
    )
    cluster = SimCluster([NodeJoined(at=0.0, node=NODES[0]), stale])
    seen: list[Event] = []
    drive(
        Scheduler(),
        cluster,
        store,
        cluster,
        observe=seen.append,
        keep_alive=lambda: cluster.num_arrivals > 0,
    )
    assert stale not in seen
    assert len(store.progress(spec.run_id)) == 1


def test_time_passes_only_when_a_wakeup_is_due() -> None:
    store = MemoryStore()
    store.ask(RunSubmitted(at=0.0, spec=make_spec("r", options={"fail_at_epoch": 1})))
    cluster = SimCluster([NodeJoined(at=0.0, node=NODES[0])])
    drive(Scheduler(), cluster, store, cluster)
    passed = [event for event in store.replay() if isinstance(event, TimePassed)]
    assert len(passed) == 1, "one backoff"


def test_wishes_are_followed_while_the_driver_runs() -> None:
    store = MemoryStore()
    spec = make_spec("r", epochs=50)
    store.ask(RunSubmitted(at=0.0, spec=spec))
    cluster = SimCluster([NodeJoined(at=0.0, node=NODES[0])])

    def stop_and_go(event: Event) -> None:
        if isinstance(event, ProgressReported) and event.progress.epoch == 3:
            store.ask(CancelRequested(at=0.0, run_id=spec.run_id))

    drive(Scheduler(), cluster, store, cluster, observe=stop_and_go)
    assert store.statuses()[spec.run_id].state is RunState.CANCELLED
    assert store.statuses()[spec.run_id].epoch == 4, "it left after the epoch under way"
    store.ask(ResumeRequested(at=0.0, run_id=spec.run_id))
    cluster.restart()
    drive(Scheduler(), cluster, store, cluster)
    status = store.statuses()[spec.run_id]
    assert (status.state, status.epoch, status.attempt) == (RunState.SUCCEEDED, 50, 2)
    assert [row.epoch for row in store.progress(spec.run_id)] == list(range(1, 51))


class LyingCluster(FragileCluster):
    """A cluster that once tells of a gang that it left, though nobody asked it to."""

    def __init__(self, cluster: SimCluster) -> None:
        super().__init__(cluster, Bomb(10**9))

    def wait(self, until: float | None) -> Sequence[Event]:
        events = super().wait(until)
        lies = [GangYielded(at=e.at, attempt=e.attempt) for e in events if type(e) is GangStarted]
        return (*events, *lies)


def test_an_event_that_fits_no_row_is_loud_but_not_recorded_so_a_restart_goes_on() -> None:
    store, cluster = prepared()
    with pytest.raises(TransitionError) as caught:
        drive(Scheduler(), LyingCluster(cluster), store, cluster)
    assert "GangYielded came while RUNNING" in caught.value.what
    assert caught.value.why, "it tells the run's story"
    journal = tuple(store.replay())
    assert isinstance(journal[-1], GangStarted)
    assert not any(isinstance(event, GangYielded) for event in journal)
    cluster.restart()
    drive(Scheduler(), cluster, store, cluster)
    check_outcome(store)
