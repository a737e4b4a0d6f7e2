"""Plays one seeded schedule of faults: drivers die and come back, and the laws are watched."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobs.fault_work import Work
from orchestrator.cluster.sim import SimCluster
from orchestrator.cluster.sim_laws import Observer
from orchestrator.cluster.sim_network import SimNetwork
from orchestrator.cluster.sim_pace import MEASURED_AFTER, Physics
from orchestrator.cluster.sim_rooms import LawBrokenError
from orchestrator.driver import drive
from orchestrator.errors import ClusterError, StoreError, TransitionError
from orchestrator.messages import Action, Event, NodeLost, PlaceMended, RunSubmitted
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.memory import MemoryStore
from orchestrator.types import Finding, PendingReason, RunId, RunSpec, RunStatus, Seconds

__all__ = ["Played", "play"]

START_TIMEOUT: Seconds = 300.0
GRACE: Seconds = 60.0
MAX_EVENTS = 20_000  # a schedule has hundreds
MAX_SECONDS: Seconds = 60_000.0  # of true time; a day by which a date is wrong is more
MAX_MENDED = 4  # times that a person has to come
JITTER: Seconds = 0.05


class _DriverDiedError(Exception):
    """Planted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one schedule; `broken` is empty when every law held."""

    seed: int
    broken: str = ""
    digest: str = ""
    num_events: int = 0
    num_deaths: int = 0
    num_checks: int = 0


@dataclass(slots=True)
class _Fate:
    """When the driver dies: before or after one operation of the store or the cluster."""

    left: int
    is_store: bool  # it is the store that fails: full before, torn after

    def around(self, operation: Callable[..., Any], *args: Any) -> Any:
        self._tick("the disk is full")
        result = operation(*args)
        self._tick("the answer was lost")
        return result

    def _tick(self, what: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoreError(what, code="E5004") if self.is_store else _DriverDiedError


@dataclass(slots=True)
class _WatchedStore:
    """A store whose every effect is told to the observer, also when the driver dies of it."""

    store: MemoryStore
    observer: Observer
    fate: _Fate

    def append(self, event: Event) -> bool:
        return bool(self.fate.around(self._append, event))

    def publish(self, statuses: Sequence[RunStatus]) -> None:
        self.fate.around(self._publish, statuses)

    def receive(self, at: Seconds) -> Sequence[Event]:
        events: Sequence[Event] = self.fate.around(self._receive, at)
        return events

    def replay(self) -> Iterator[Event]:
        return self.store.replay()

    def findings(self, model: str | None = None) -> Sequence[Finding]:
        return self.store.findings(model)

    def _append(self, event: Event) -> bool:
        is_taken = self.store.append(event)
        if is_taken and not event.is_volatile:
            self.observer.recorded(event)
        return is_taken

    def _publish(self, statuses: Sequence[RunStatus]) -> None:
        self.store.publish(statuses)
        self.observer.published(statuses)

    def _receive(self, at: Seconds) -> Sequence[Event]:
        events = self.store.receive(at)
        for event in events:
            self.observer.recorded(event)
        return events


@dataclass(slots=True)
class _WatchedCluster:
    """A cluster whose every order is told to the observer."""

    network: SimNetwork
    world: SimCluster
    observer: Observer
    fate: _Fate

    def apply(self, action: Action) -> None:
        self.observer.ordered(action)
        self.fate.around(self.network.apply, action)

    def wait(self, until: Seconds | None) -> Sequence[Event]:
        if self.world.now() > MAX_SECONDS:
            raise LawBrokenError("I12", f"not at its end after {MAX_SECONDS:.0f} s")
        events: Sequence[Event] = self.fate.around(self.network.wait, until)
        return events


@dataclass(slots=True)
class _Play:
    work: Work
    seed: int
    store: MemoryStore = field(default_factory=MemoryStore)
    num_events: int = 0
    num_deaths: int = 0
    num_wishes: int = 0  # still to come
    observer: Observer = field(init=False)
    world: SimCluster = field(init=False)
    network: SimNetwork = field(init=False)

    def __post_init__(self) -> None:
        work = self.work
        self.world = SimCluster(
            work.happenings,
            faults=work.faults,
            seed=self.seed,
            physics=Physics(measured_after=MEASURED_AFTER),
        )
        self.observer = Observer(
            start_timeout_seconds=START_TIMEOUT, grace_seconds=GRACE, clock=self.world.now
        )
        self.network = SimNetwork(
            self.world,
            seed=self.seed,
            duplicate=work.duplicate,
            jitter_seconds=JITTER,
            partitions=work.partitions,
        )
        for at, spec in work.runs:
            self._later(at, lambda spec=spec: self._submit(spec))  # type: ignore[misc]
            if work.duplicate:  # the answer was lost, so the person asks again
                self._later(at + 30.0, lambda spec=spec: self._submit(spec))  # type: ignore[misc]
        for at, wish in work.wishes:
            self._later(at, lambda wish=wish: self.store.ask(wish))  # type: ignore[misc]

    def _later(self, at: Seconds, ask: Callable[[], object]) -> None:
        self.num_wishes += 1

        def happen() -> Sequence[Event]:
            self.num_wishes -= 1
            ask()
            return ()

        self.network.at(at, happen)

    def _submit(self, spec: RunSpec) -> None:
        self.store.ask(RunSubmitted(at=0.0, spec=spec), spec.run_id)
        self.observer.acknowledged(spec, spec.run_id)

    def to_the_end(self) -> None:
        """Drive; after each death the next driver begins on the same store."""
        last = (10**9, False, 0.0)
        for left, is_store, offset in (*self.work.deaths, *(last,) * MAX_MENDED):
            fate = _Fate(left, is_store)
            scheduler = self._scheduler()
            try:
                drive(
                    scheduler,
                    _WatchedCluster(self.network, self.world, self.observer, fate),
                    _WatchedStore(self.store, self.observer, fate),
                    self.network,
                    observe=partial(self._observe, scheduler),
                    keep_alive=lambda: self.num_wishes > 0,
                )
            except (_DriverDiedError, StoreError):
                self._restart(offset)
            except ClusterError:
                if not self._mend():
                    raise
                self._restart(offset)
            else:
                return

    def _scheduler(self) -> Scheduler:
        return Scheduler(start_timeout_seconds=START_TIMEOUT, yield_grace_seconds=GRACE)

    def _restart(self, offset: Seconds) -> None:
        self.num_deaths += 1
        self.observer.driver_died()
        self.network.restart(offset)

    def _mend(self) -> bool:
        """A person comes where a card was put aside for good and no other can hold a run."""
        reasons = {status.reason for status in self.store.statuses().values()}
        if PendingReason.SET_ASIDE not in reasons:
            return False
        for node_id in self.world.nodes:
            self.store.ask(PlaceMended(at=0.0, node_id=node_id))
        return True

    def check_end(self) -> None:
        """What is left behind."""
        again = self._scheduler()
        for event in self.store.replay():
            again.handle(event)
        replayed = {status.run_id: status for status in again.statuses()}
        published: dict[RunId, RunStatus] = dict(self.store.statuses())
        rows = {run_id: self.store.progress(run_id) for run_id in published}
        self.observer.ended(rows, published, replayed)
        again.check()

    def _observe(self, scheduler: Scheduler, event: Event) -> None:
        if isinstance(event, NodeLost):  # the rarest event that changes most
            scheduler.check()
        self.num_events += 1
        if self.num_events > MAX_EVENTS:
            raise LawBrokenError("I12", f"not at its end after {MAX_EVENTS} events")


def play(seed: int) -> Played:
    """Play the schedule of a seed to its end, or to the first law that is broken."""
    one = _Play(Work.of(seed), seed)
    broken = ""
    try:
        one.to_the_end()
        one.check_end()
    except ClusterError as error:
        broken = f"{'I8' if error.code == 'E4102' else 'I12'}: {error}"
    except TransitionError as error:
        broken = f"I6: {error}"
    except Exception as error:
        name = "" if isinstance(error, LawBrokenError) else f"{type(error).__name__}: "
        broken = f"{name}{error}"
    return Played(
        seed=seed,
        broken=broken,
        digest=one.store.digest(),
        num_events=one.num_events,
        num_deaths=one.num_deaths,
        num_checks=one.observer.num_checks,
    )
