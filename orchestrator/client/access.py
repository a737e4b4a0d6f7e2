"""The Python API: submit, read, stop, resume, explain; needs neither Ray nor torch."""

import dataclasses
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Pause
from typing import TYPE_CHECKING

from orchestrator.client.records import Run, RunRecord, asked_run, run_of
from orchestrator.errors import ConfigError, NotFoundError
from orchestrator.messages import CancelRequested, PriorityChanged, ResumeRequested, RunSubmitted
from orchestrator.types import Explanation, RunId, RunSpec, RunState, Seconds

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["Client", "Run", "RunRecord", "default_home", "fingerprint", "new_run_id"]

_ADJECTIVES = (
    "amber bold brave brisk bright calm clear cool crisp deep eager early fair fine free fresh"
    " gentle glad golden grand green happy keen kind light lively lucky mellow mild neat noble"
    " polite proud quick quiet rapid ready sharp silver smooth snowy solid steady still stout"
    " sunny swift tidy warm wise"
)
_NOUNS = (
    "badger beaver bison crane deer dolphin eagle elk falcon ferret finch fox gecko goose hare"
    " hawk heron ibex jay koala lark lemur lion lynx marten mole moose newt otter owl panda"
    " pigeon puffin quail raven robin salmon seal shrew sparrow squid stork swan tiger trout"
    " turtle viper walrus wolf wren yak zebra"
)
_POLL: Seconds = 0.5


def default_home() -> Path:
    """The folder of the store: `ORC_HOME`, else the user's data folder of the platform."""
    if named := os.environ.get("ORC_HOME"):
        return Path(named)
    import platformdirs

    return platformdirs.user_data_path("orchestrator")


def new_run_id(at: Seconds) -> RunId:
    """A run id that sorts by time and can be read aloud: `20261121-041930-calm-otter-1f3a`."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%d-%H%M%S")
    words = f"{secrets.choice(_ADJECTIVES.split())}-{secrets.choice(_NOUNS.split())}"
    return RunId(f"{stamp}-{words}-{secrets.token_hex(2)}")


def fingerprint(spec: RunSpec) -> str:
    """SHA-256 of all that was asked for (plans may differ) and the folder above its own; no id."""
    bare = dataclasses.replace(spec, run_id=RunId(""), folder=str(Path(spec.folder).parent))
    text = json.dumps(dataclasses.asdict(bare), sort_keys=True)
    return spec.asked or hashlib.sha256(text.encode()).hexdigest()


class Client:
    """Asks and reads one store. Reading never creates it; asking does.

    Args:
        home: The folder of the store; None takes `default_home()`.
        clock: Tells the Unix time.
    """

    def __init__(
        self, home: Path | str | None = None, *, clock: Callable[[], Seconds] = time.time
    ) -> None:
        self.home = Path(home) if home is not None else default_home()
        self._clock = clock

    @property
    def path(self) -> Path:
        """The store's file."""
        return self.home / "orchestrator.db"

    @contextmanager
    def store(self) -> Iterator["SqlStore"]:
        """The store itself, opened and closed; created when it is not there."""
        from orchestrator.store.sql import SqlStore

        with SqlStore(str(self.path)) as store:
            yield store

    def submit(
        self, specs: Sequence[RunSpec], keys: Sequence[str | None] | None = None
    ) -> tuple[RunId, ...]:
        """Ask for runs; durable when this returns.

        A key makes asking twice the same as asking once: the answer is then the first run's id.

        Raises:
            StoreError: The store failed, or a key was used for something else.
        """
        chosen = keys if keys is not None else [None] * len(specs)
        with self.store() as store:
            return tuple(
                store.ask(RunSubmitted(at=self._clock(), spec=spec), key)
                for spec, key in zip(specs, chosen, strict=True)
            )

    def runs(self, project: str | None = None, limit: int | None = None) -> tuple[Run, ...]:
        """Every run, or every one of a project, the oldest first; the newest `limit` alone."""
        if not self.path.exists():
            return ()
        with self.store() as store:
            waiting = [e.spec for e in store.waiting() if isinstance(e, RunSubmitted)]
            asked = [spec for spec in waiting if project in (None, spec.project)]
            known = store.statuses(project)
            left = None if limit is None else max(0, limit - len(asked))
            known = known[len(known) - left :] if left is not None and left < len(known) else known
            rows = [run_of(store, status) for status in known]
        every = (*rows, *(asked_run(spec) for spec in asked))
        return every if limit is None else every[-limit:]

    def run(self, run_id: str) -> Run:
        """One run, by its id or any beginning or part of it that only one run has.

        Raises:
            NotFoundError: E5020, no such run.
            ConfigError: E1031, several runs have it; they are listed.
        """
        return self.show(run_id).run

    def show(self, run_id: str) -> RunRecord:
        """One run with its epochs and checkpoints; raises as `run` does."""
        full = self.find(run_id)
        with self.store() as store:
            spec = store.spec(full)
            known = {status.run_id: status for status in store.statuses()}
            status = known.get(full)
            return RunRecord(
                run=run_of(store, status) if status else asked_run(spec),
                spec=spec,
                progress=store.progress(full),
                checkpoints=store.checkpoints(full),
            )

    def find(self, text: str) -> RunId:
        """The full id that `text` means: an id or enough of it, `last`, or a project's newest run.

        Raises:
            NotFoundError, ConfigError: As `run` does.
        """
        projects = self._projects()
        ids = sorted(projects)
        if text in projects:
            return RunId(text)
        if newest := [i for i in ids if text in ("last", projects[i])]:
            return newest[-1]
        found = [i for i in ids if text and i.startswith(text)]
        found = found or [i for i in ids if text and text in i]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"{len(found)} runs are meant by {text!r:.80}",
                code="E1031",
                why=tuple(found[:10]),
                fix=("give more of the id",),
            )
        raise NotFoundError(
            f"there is no run {text!r:.80}",
            code="E5020",
            why=(f"{len(ids)} runs in {self.path}",),
            fix=("orc ls shows every run; --home or ORC_HOME chooses another store",),
        )

    def _projects(self) -> dict[RunId, str]:
        """The project of every run, those included that no driver has taken yet."""
        if not self.path.exists():
            return {}
        with self.store() as store:
            asked = [e.spec for e in store.waiting() if isinstance(e, RunSubmitted)]
            known = {status.run_id: status.project for status in store.statuses()}
        return known | {spec.run_id: spec.project for spec in asked}

    def explain(self, run_id: str) -> Explanation:
        """Why a run is where it is: the journal replayed into a scheduler; raises as `run` does."""
        from orchestrator.schedule.scheduler import Scheduler

        full = self.find(run_id)
        scheduler = Scheduler()
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
            with self.store() as store:
                event = CancelRequested(at=self._clock(), run_id=RunId(run.id), now=now)
                store.ask(event)
        return run

    def prioritize(self, run_id: str, priority: int) -> Run:
        """Ask for another priority of a run; returns the run as it was.

        Raises:
            ConfigError: E1033, outside -1000 to 1000; and as `run` does.
        """
        if not -1000 <= priority <= 1000:
            raise ConfigError(
                f"priority {priority} is outside -1000 to 1000",
                code="E1033",
                fix=("50 is what runs have by default; higher goes first",),
            )
        run = self.run(run_id)
        with self.store() as store:
            event = PriorityChanged(at=self._clock(), run_id=RunId(run.id), priority=priority)
            store.ask(event)
        return run

    def resume(self, run_id: str | None = None) -> tuple[RunId, ...]:
        """Ask to go on with a stopped or failed run; None names every unfinished run.

        Returns the runs that a driver will now take up.

        Raises:
            ConfigError: E1032, the run has succeeded.
        """
        if run_id is None:
            return tuple(RunId(r.id) for r in self.runs() if not r.state.is_terminal)
        run = self.run(run_id)
        if run.state is RunState.SUCCEEDED:
            raise ConfigError(
                f"{run.id} has succeeded; there is nothing to go on with",
                code="E1032",
                fix=("train it again under a changed config, such as more epochs",),
            )
        if run.state.is_terminal:
            with self.store() as store:
                store.ask(ResumeRequested(at=self._clock(), run_id=RunId(run.id)))
        return (RunId(run.id),)

    def queue(self) -> tuple[Run, ...]:
        """Runs that have not ended: those that hold a card first, then by priority and age."""
        unfinished = [run for run in self.runs() if not run.state.is_terminal]
        unfinished.sort(key=lambda run: (not run.state.holds_gpus, -run.priority, run.submitted_at))
        return tuple(unfinished)

    def driver(self) -> str | None:
        """Who drives the store now, in words; None when nobody does."""
        if not self.path.exists():
            return None
        with self.store() as store:
            driver = store.driver()
        return str(driver) if driver else None

    def demand_no_driver(self) -> None:
        """Raise StoreError (E5006: who it is, what to do) where somebody drives the store."""
        if self.path.exists():
            with self.store() as store:
                store.demand_no_driver()

    def logs(self, run_id: str) -> tuple[Path, ...]:
        """The log files of a run that exist, oldest attempt first; raises as `run` does."""
        found = Path(self.run(run_id).folder).glob("logs/*.log")
        return tuple(sorted(found, key=lambda p: (len(p.name), p.name)))  # 2 before 10

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
        wanted = fingerprint(spec)
        ended = 0
        if self.path.exists():
            with self.store() as store:
                for event in store.waiting():
                    if isinstance(event, RunSubmitted) and fingerprint(event.spec) == wanted:
                        return event.spec.run_id, ""
                for status in store.statuses(spec.project):
                    if fingerprint(store.spec(status.run_id)) == wanted:
                        if not status.state.is_terminal:
                            return status.run_id, ""
                        ended += 1
        return None, f"{spec.project}:{wanted}:{ended}"
