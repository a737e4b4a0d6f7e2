"""`orc serve` around the driver itself: start it detached, ask it to leave, say how it is."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event as Pause
from typing import TYPE_CHECKING

from orchestrator.client.access import Client
from orchestrator.console.gpus import card_name
from orchestrator.console.say import emit, emit_json, say, span_text
from orchestrator.messages import NodeJoined
from orchestrator.types import RunState, Seconds

if TYPE_CHECKING:
    from orchestrator.store.lease import Driver

__all__ = ["NOT_RUNNING", "log_path", "show_service", "start_service", "stop_service"]

NOT_RUNNING = 3  # the exit code of `--status`, as for init scripts (LSB: program is not running)
_POLL: Seconds = 0.2
_START_SECONDS: Seconds = 120.0  # Ray takes five; a machine that is busy, a minute
_LOG_BYTES = 10 * 1024**2  # a log that is larger is put aside when the next service starts
_TAIL = 12  # lines of the log that tell why it did not start


def log_path(client: Client) -> Path:
    """The file with what a detached driver says."""
    return client.home / "logs" / "serve.log"


def start_service(client: Client, words: Sequence[str], *, as_json: bool) -> int:
    """Start a driver in a session of its own and wait until it has nodes; returns the exit code.

    Args:
        client: Of the store.
        words: What stands after `orc serve`, without `--background`.
        as_json: How it is told.

    Raises:
        StoreError: E5006, another driver holds the store.
    """
    client.demand_no_driver()
    path = log_path(client)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with client.store() as store, path.open("ab") as log:
        begun, said = store.last_number(), log.tell()
        process = subprocess.Popen(  # noqa: S603 - this very command
            [sys.executable, "-m", "orchestrator", "serve", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        until = time.monotonic() + _START_SECONDS
        is_ready = False
        while not is_ready and time.monotonic() < until:
            if process.poll() is not None:
                return _failed_start(process.returncode, path, said)
            driver = store.driver()
            news = store.events(since=begun) if driver and driver.pid == process.pid else iter(())
            is_ready = any(isinstance(event, NodeJoined) for _, event in news)
            Pause().wait(_POLL)
    process.returncode = 0  # it lives on: this process does not wait for it
    if as_json:
        emit_json(pid=process.pid, log=str(path), ready=is_ready, driver=client.driver())
    elif is_ready:
        say(f"the driver runs: {client.driver()}; its log is {path}")
        say("submit: orc submit CONFIG   look: orc serve --status   end: orc serve --stop")
    else:
        say(f"the driver (pid {process.pid}) has no node yet; see {path}")
    return 0


def _failed_start(code: int, log: Path, since: int) -> int:
    """Tell the last lines that a driver said before it ended."""
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").splitlines()
    say(f"the driver did not start; its log is {log}")
    for line in lines[-_TAIL:]:
        say(f"  {line}")
    return code or 1


def stop_service(
    client: Client,
    *,
    now: bool,
    as_json: bool,
    pause: Callable[[Seconds], object] | None = None,
) -> int:
    """Ask the driver to leave and wait until it has; returns the exit code."""
    wait = pause or Pause().wait
    driver = client.driver()
    if driver is None:
        _tell_stopped(client, None, as_json=as_json)
        return 0
    client.drain(now=now)
    if not as_json:
        how = "at once" if now else "once every epoch under way is saved (--now: at once)"
        say(f"asked to leave {how}: {driver}")
    while client.driver() == driver:
        wait(_POLL)
    _tell_stopped(client, driver, as_json=as_json)
    return 0


def _tell_stopped(client: Client, driver: str | None, *, as_json: bool) -> None:
    num_left = len(client.queue())
    if as_json:
        emit_json(stopped=driver, unfinished=num_left)
        return
    what = "the driver has left" if driver else f"no driver runs in {client.name}"
    say(f"{what}; {num_left} unfinished run(s)" + (" go on with the next one" * bool(num_left)))


def show_service(client: Client, *, as_json: bool) -> int:
    """Say whether a driver runs, on what, and what it has to do; returns the exit code."""
    driver: Driver | None = None
    states: Counter[RunState] = Counter()
    if client.is_there:
        with client.store() as store:
            driver = store.driver()
        states.update(run.state for run in client.queue())
    nodes = client.nodes() if driver else ()
    log = log_path(client)
    if as_json:
        emit_json(
            running=driver is not None,
            driver=asdict(driver) if driver else None,
            nodes=[asdict(node) for node in nodes],
            runs={state.value: number for state, number in states.items()},
            log=str(log) if log.exists() else None,
        )
        return 0 if driver else NOT_RUNNING
    if driver is None:
        say(f"no driver runs in {client.name}; start one: orc serve --background")
    else:
        emit(f"driver   {driver}")
        if driver.silent_seconds is not None:
            emit(f"seen     {span_text(driver.silent_seconds)} ago")
        for node in nodes:
            cards = ", ".join(card_name(card) for card in node.cards) or "no GPU"
            emit(f"node     {node.node_id}: {cards}; {node.num_cpus:g} CPUs")
    emit(f"runs     {', '.join(f'{n} {state.value}' for state, n in states.items()) or 'none'}")
    if log.exists():
        emit(f"log      {log}")
    return 0 if driver else NOT_RUNNING
