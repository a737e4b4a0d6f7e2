"""The Python API: submit, read, wait, move, stop, resume; needs neither Ray nor torch."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Pause
from typing import TYPE_CHECKING

from orchestrator.client import places, records
from orchestrator.client.names import default_home, find_run, fingerprint, new_run_id
from orchestrator.client.records import Run, RunRecord, made_at_once
from orchestrator.client.rules import standing_of
from orchestrator.client.storage import logs_of
from orchestrator.messages import (
    CancelRequested,
    DrainRequested,
    Event,
    PriorityChanged,
    ResumeRequested,
    RunMoved,
    RunSubmitted,
)
from orchestrator.types import Explanation, Node, RunId, RunSpec, RunState, Seconds

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["Client", "Run", "RunRecord", "default_home", "fingerprint", "new_run_id"]

_POLL: Seconds = 0.5


class Client:
    """Asks and reads one store. Reading never creates it; asking does.

    Args:
        home: The folder of the store; None takes the store that `ORC_STORE` names (a
            ``postgresql://`` URL), else the one in `default_home()`.
        clock: Tells the Unix time.
    """

    def __init__(
        self, home: Path | str | None = None, *, clock: Callable[[], Seconds] = time.time
    ) -> None:
        self.home = Path(home) if home is not None else default_home()
        self._url = os.environ.get("ORC_STORE") if home is None else None
        self._clock = clock

    @property
    def path(self) -> Path:
        """The store's file, where it is one."""
        return self.home / "orchestrator.db"

    @property
    def is_there(self) -> bool:
        """True when there is a store to read."""
        return self._url is not None or self.path.exists()

    @contextmanager
    def store(self) -> Iterator["SqlStore"]:
        """The store itself, opened and closed; created when it is not there."""
        from orchestrator.store.sql import SqlStore

        with SqlStore(self._url or str(self.path)) as store:
            yield store

    def submit(
        self, specs: Sequence[RunSpec], keys: Sequence[str | None] | None = None
    ) -> tuple[RunId, ...]:
        """Ask for runs, all or none of them; durable when this returns.

        A key makes asking twice the same as asking once: the answer is then the first run's id.

        Raises:
            ConflictError: E5009, a key was used for something else.
            StoreError: The store failed.
        """
        from orchestrator.store.asking import Wish

        chosen = keys if keys is not None else [None] * len(specs)
        at = self._clock()
        wishes = [
            Wish(event=RunSubmitted(at=at, spec=spec), key=key, fingerprint=fingerprint(spec))
            for spec, key in zip(specs, chosen, strict=True)
        ]
        with self.store() as store:
            return store.ask_all(wishes)

    def runs(self, project: str | None = None, limit: int | None = None) -> tuple[Run, ...]:
        """Every run, or every one of a project, the oldest first; the newest `limit` alone."""
        every = self._listing(project=project, limit=limit)
        return every if limit is None else every[-limit:]

    def _listing(
        self, *, project: str | None = None, limit: int | None = None, is_unfinished: bool = False
    ) -> tuple[Run, ...]:
        if not self.is_there:
            return ()
        with self.store() as store, made_at_once():
            known, asked = store.listing(project=project, limit=limit, is_unfinished=is_unfinished)
            return (*map(records.listed_run, known), *map(records.asked_run, asked))

    def run(self, run_id: str) -> Run:
        """One run, by its id or any beginning or part of it that only one run has.

        Raises:
            NotFoundError: E5020, no such run.
            ConfigError: E1031, several runs have it; they are listed.
        """
        return self.show(run_id).run

    def show(self, run_id: str) -> RunRecord:
        """One run with its epochs and checkpoints; raises as `run` does."""
        from orchestrator.store.codec import to_plain

        full = self.find(run_id)
        with self.store() as store:
            spec, row, wish = store.spec(full), store.listed(full), store.last_wish(full)
            return RunRecord(
                run=records.known_run(row, wish) if row else records.asked_run(to_plain(spec)),
                spec=spec,
                progress=store.progress(full),
                checkpoints=store.checkpoints(full),
            )

    def find(self, text: str) -> RunId:
        """The full id that `text` means: an id or enough of it, `last`, or a project's newest run.

        Raises:
            NotFoundError, ConfigError: As `run` does.
        """
        projects: dict[RunId, str] = {}
        if self.is_there:
            with self.store() as store:
                projects = store.projects()
        return find_run(text, projects, self.name)

    def explain(self, run_id: str) -> Explanation:
        """Why a run is where it is: the journal replayed into a scheduler; raises as `run` does."""
        from orchestrator.schedule.standard import standard_scheduler

        full = self.find(run_id)
        scheduler = standard_scheduler(forgets=False)  # people may ask about any run
        with self.store() as store:
            for event in (*store.replay(), *store.waiting()):
                scheduler.handle(event)
        return scheduler.explain(full, self._clock())

    def stop(self, run_id: str, *, now: bool = False) -> Run:
        """Ask a run to stop: after its epoch and its checkpoint, or at once (`now`).

        Returns the run as it was; a run that has already ended is left alone.
        """
        run = self.run(run_id)
        if not run.state.is_terminal:
            self.ask([CancelRequested(at=self._clock(), run_id=RunId(run.id), now=now)])
        return run

    def stop_all(self, *, now: bool = False) -> tuple[Run, ...]:
        """Ask every unfinished run to stop; returns them in the order of the queue."""
        runs, at = self.queue(), self._clock()
        self.ask([CancelRequested(at=at, run_id=RunId(run.id), now=now) for run in runs])
        return runs

    def drain(self, *, now: bool = False) -> None:
        """Ask the driver to leave once its gangs have saved, or at once; the runs go on later."""
        self.ask([DrainRequested(at=self._clock(), now=now)])

    def prioritize(self, run_id: str, priority: int) -> Run:
        """Ask for another priority of a run; returns the run as it was.

        Raises:
            ConfigError: E1033, outside -1000 to 1000; and as `run` does.
        """
        places.demand_priority(priority)
        run = self.run(run_id)
        event = PriorityChanged(at=self._clock(), run_id=RunId(run.id), priority=priority)
        self.ask([event])
        return run

    def move(self, run_id: str, *, before: str | None = None, to_end: bool = False) -> Run:
        """Ask for another place among the runs of the same priority: the front, or as said.

        Returns the run as it was.

        Raises:
            ConfigError: E1034, it has ended, or `before` has, or has another priority.
        """
        run = self.run(run_id)
        other = None if before is None else self.run(before)
        places.demand_movable(run, other)
        there = None if other is None else RunId(other.id)
        event = RunMoved(at=self._clock(), run_id=RunId(run.id), before=there, to_end=to_end)
        self.ask([event])
        return run

    def resume(self, run_id: str | None = None) -> tuple[RunId, ...]:
        """Ask to go on with a stopped or failed run; None names every unfinished run.

        Returns the runs that a driver will now take up.

        Raises:
            ConfigError: E1032, the run has succeeded.
        """
        if run_id is None:
            return tuple(RunId(run.id) for run in self._listing(is_unfinished=True))
        run = self.run(run_id)
        places.demand_resumable(run)
        full = RunId(run.id)
        with self.store() as store:
            shall_end = isinstance(store.last_wish(full), CancelRequested)  # not taken yet
        if shall_end or run.state.is_terminal or run.state is RunState.STOPPING:
            self.ask([ResumeRequested(at=self._clock(), run_id=full)])
        return (full,)

    def queue(self) -> tuple[Run, ...]:
        """Runs that have not ended: those that hold a card first, then as they will start."""
        runs = sorted(self._listing(is_unfinished=True), key=places.place)
        has_queues = len({run.queue for run in runs}) > 1
        return places.in_turn(runs, standing_of(self)) if has_queues else (*runs,)

    def events(self, run_id: str | None = None, since: int = 0) -> Iterator[tuple[int, Event]]:
        """The journal as (number, event) after number `since`, of one run or of all."""
        if self.is_there:
            with self.store() as store:
                yield from store.events(run_id, since)

    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the driver that runs, else of the last one."""
        if not self.is_there:
            return ()
        with self.store() as store:
            return store.nodes()

    def driver(self) -> str | None:
        """Who drives the store now, where and since when; None when nobody does."""
        if not self.is_there:
            return None
        with self.store() as store:
            driver = store.driver()
        return str(driver) if driver else None

    @property
    def name(self) -> str:
        """What the store is called in messages."""
        return str(self.path) if self._url is None else self._url.rpartition("@")[2]

    def demand_no_driver(self) -> None:
        """Raise StoreError (E5006: who it is, what to do) where somebody drives the store."""
        if self.is_there:
            with self.store() as store:
                store.demand_no_driver()

    def logs(self, run_id: str) -> tuple[Path, ...]:
        """The log files of a run that exist, oldest attempt first; raises as `run` does."""
        record = self.show(run_id)
        return logs_of(record.spec, Path(record.run.folder))

    def wait(self, run_id: str, timeout: Seconds | None = None) -> Run:
        """Return the run once it has ended, or as it is after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        pause = Pause()
        while not (run := self.run(run_id)).state.is_terminal:
            if until is not None and time.monotonic() >= until:
                break
            pause.wait(_POLL)
        return run

    def unfinished_like(self, spec: RunSpec) -> tuple[RunId | None, str]:
        """The unfinished run that was submitted with exactly this spec, and the key to ask with.

        The key counts the runs of this spec that have ended, so that the same config may be
        trained again, and two askings at the same time are one.
        """
        wanted, ended = fingerprint(spec), 0
        if self.is_there:
            with self.store() as store:
                for asking in store.askings(wanted):
                    if asking.spec is not None and fingerprint(asking.spec) != wanted:
                        continue
                    if not asking.has_ended:
                        return asking.run_id, ""
                    ended += 1
        return None, f"{spec.project}:{wanted}:{ended}"

    def ask(self, events: Sequence[Event]) -> None:
        """Put wishes into the inbox, all or none."""
        from orchestrator.store.asking import Wish

        with self.store() as store:
            store.ask_all([Wish(event=event) for event in events])
