"""A sweep of a store from where it stands to its end: driver, planner, searcher, record."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from threading import Event as Pause
from typing import Any

from orchestrator.client.access import Client
from orchestrator.cluster.fork_server import fork_server
from orchestrator.config.load import Config
from orchestrator.errors import NotFoundError
from orchestrator.messages import QueueChanged
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.ahead import Ahead
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition, read_definition
from orchestrator.sweep.judging import judging
from orchestrator.sweep.ports import Runs
from orchestrator.sweep.reading import config_of
from orchestrator.sweep.records import StoreRecorder, SweepRecord, read_events, read_sweep
from orchestrator.sweep.search import GridSearch, Outcome, RandomSearch, Searcher
from orchestrator.sweep.service import Service, serve_command
from orchestrator.sweep.space import Values
from orchestrator.sweep.store_runs import StoreRuns, trial_planner
from orchestrator.sweep.trials import SweepState
from orchestrator.types import DeviceKind, QueueRule, Seconds

__all__ = ["conduct", "fits_of", "searcher_of"]

_POLL: Seconds = 0.1
_GLANCE: Seconds = 0.02  # where it takes microseconds to see that nothing has happened
_LOOK: Seconds = 0.5  # for somebody who stopped the sweep, and for the driver
_END_SECONDS: Seconds = 20.0  # for runs that are ended; the driver ends the rest later
_PLANNED = ("memory", "config")  # limits that are held before anything starts


def conduct(
    client: Client,
    name: str,
    *,
    said: Callable[[str], None],
    watch: Callable[[Conductor], None] | None = None,
    command: Sequence[str] | None = None,
) -> SweepRecord:
    """Conduct a sweep until it is finished, or somebody stops it.

    Args:
        client: Of the store.
        name: The sweep.
        said: Told what a person should know.
        watch: Called whenever something has happened.
        command: Starts a driver where none runs; None starts `orc serve`.

    Raises:
        NotFoundError: E5031, there is no such sweep.
        PlanError: E2030, nothing of the space fits.
        StoreError: E5032, somebody else began to conduct it.
        ClusterError: No driver can be started.
    """
    with client.store() as store, ExitStack() as stack:
        definition = _definition(store, name)
        recorder = StoreRecorder(store, name)
        recorder.set_state(SweepState.RUNNING)
        config = config_of(definition, {})
        expected = _expected(definition, config)
        forks = stack.enter_context(_forks(client, config, "" if command else expected))
        serve = command or serve_command(client, config.emulate, config.address, expected)
        # one, which knows what it has traced
        planner = cache(lambda: trial_planner(client, said, forks.path if forks else None))
        is_new = next(iter(read_events(store, name)), None) is None
        ahead = Ahead(definition, client, store, planner) if is_new else None
        with Service(client, serve, said, forks) as service:
            if definition.gpus is not None:
                rule = QueueRule(name=definition.queue, max_gpus=definition.gpus)
                client.ask([QueueChanged(at=time.time(), rule=rule)])
            nodes = service.nodes()
            runs = StoreRuns(definition, client, store, nodes, planner)
            searcher = searcher_of(definition, fits_of(definition, runs))  # takes its imports
            if ahead is not None:
                ahead.joined(runs, tuple(card for node in nodes for card in node.cards), said)
            conductor = Conductor(definition, searcher, runs, recorder, time.time, said)
            conductor.replay(event for _, event in read_events(store, name))
            _until_done(conductor, store, service, watch or _unwatched)
        if not conductor.is_stopping:
            recorder.set_state(SweepState.FINISHED)
    return read_sweep(client, name)


def _expected(definition: Definition, config: Config) -> str:
    """What a driver may make processes for while the first trials are planned."""
    spec = config.projects[0].template
    if spec.device is DeviceKind.CPU or spec.num_gpus > 1:
        return ""
    return f"{spec.trainer}:{min(definition.trials, definition.max_concurrent)}"


def _forks(client: Client, config: Config, expected: str) -> AbstractContextManager[Any]:
    """A fork server for traces and workers, where a driver of our own starts a Ray here.

    Only for emulated cards: that nothing imported ahead touches a real one is not proved.
    """
    trainer = expected.partition(":")[0]
    if not trainer or not config.emulate or config.address or sys.platform != "linux":
        return nullcontext()
    if client.driver() is not None:
        return nullcontext()
    return fork_server([sys.executable, "-m", "jobs.fork_server", trainer])


def fits_of(definition: Definition, runs: Runs) -> Callable[[Values], bool]:
    """Whether values can run, as planning knows it; asked without starting anything.

    A guide for searchers that ask about many candidates. What is suggested is planned as it is.
    """
    judge = judging(definition, runs)
    return lambda values: judge(values).fits


def searcher_of(definition: Definition, fits: Callable[[Values], bool] | None = None) -> Searcher:
    """The searcher of a definition, with what is known from earlier sweeps.

    Args:
        definition: Of the sweep.
        fits: Whether values can run; None does not know.

    Raises:
        ConfigError: E1110, Optuna is needed and not installed.
    """
    if definition.search == "grid":
        return GridSearch(definition.space)
    if definition.search == "random":
        return RandomSearch(definition.space, definition.seed)
    from orchestrator.sweep.search_optuna import OptunaSearch

    found = OptunaSearch(
        definition.space,
        num_scores=len(definition.metrics),
        seed=definition.seed,
        model="gp" if definition.search == "gp" else "tpe",
        fits=fits,
    )
    for known in definition.known:
        is_refused = any(known.violations.get(limit, 0.0) > 0.0 for limit in _PLANNED)
        found.know(
            known.values,
            Outcome(scores=known.scores, violations=known.violations, is_refused=is_refused),
        )
    return found


def _until_done(
    conductor: Conductor, store: SqlStore, service: Service, watch: Callable[[Conductor], None]
) -> None:
    pause, changes = Pause(), store.watch()
    name = conductor.definition.name
    looked, is_moving = -math.inf, True
    while not conductor.is_done:
        now = time.monotonic()
        if now - looked >= _LOOK:
            row, looked = store.sweeps.find(name), now
            if row is not None and row.state == SweepState.STOPPED:
                ended, until = conductor.stop(), time.monotonic() + _END_SECONDS
                while store.num_unfinished(ended) and time.monotonic() < until:
                    pause.wait(_POLL)
                break
            service.ensure()
        is_moving = (changes.has_changed() or is_moving) and conductor.advance()
        if is_moving:
            watch(conductor)
        else:
            pause.wait(_POLL if changes.is_blind else _GLANCE)


def _definition(store: SqlStore, name: str) -> Definition:
    row = store.sweeps.find(name)
    if row is None:
        raise NotFoundError(
            f"there is no sweep {name!r:.80}", code="E5031", fix=("orc sweep ls lists them",)
        )
    return read_definition(row.body)


def _unwatched(_: Conductor) -> None:
    pass
