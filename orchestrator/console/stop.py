"""Ctrl-C and SIGTERM: the first asks the runs to stop once they are saved, the second at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from orchestrator.client.access import Client
from orchestrator.types import RunId

__all__ = ["Interrupts", "interruptible"]

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@dataclass(slots=True)
class Interrupts:
    """How often a person asked to stop, and with which exit code that ends."""

    count: int = 0
    exit_code: int = 0


@contextmanager
def interruptible(
    client: Client,
    say: Callable[[str], None],
    *,
    is_service: bool = False,
    ids: Sequence[RunId] | None = None,
) -> Iterator[Interrupts]:
    """Turn signals into requests to stop, which the driver takes from its store.

    The first asks every unfinished run to stop after its epoch, the second at once, the
    third ends this process at once, and the runs with it; what was recorded stays. The driver
    that is a service asks itself to leave instead: its runs stay unfinished for the next one.

    Args:
        client: Of the store.
        say: Takes messages.
        is_service: Whether this process drives runs of others, who shall go on with the next one.
        ids: The runs to stop, where others in the same store are somebody else's.
    """
    interrupts = Interrupts()
    asking: list[threading.Thread] = []

    def take(number: int, _frame: FrameType | None) -> None:
        interrupts.count += 1
        interrupts.exit_code = _EXIT_CODES[signal.Signals(number)]
        if interrupts.count > 2:
            os._exit(interrupts.exit_code)
        # A thread with connections of its own: the signal may have come within a transaction.
        now = interrupts.count > 1
        thread = threading.Thread(target=lambda: _ask(client, ids, is_service, now=now, say=say))
        asking.append(thread)
        thread.start()

    before = {number: signal.signal(number, take) for number in _EXIT_CODES}
    try:
        yield interrupts
    finally:
        for thread in asking:
            thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask(
    client: Client,
    ids: Sequence[RunId] | None,
    is_service: bool,  # noqa: FBT001 - private, called once
    *,
    now: bool,
    say: Callable[[str], None],
) -> None:
    if ids is not None:
        _tell_stop([client.stop(run_id, now=now).id for run_id in ids], now=now, say=say)
    elif not is_service:
        _tell_stop([run.id for run in client.stop_all(now=now)], now=now, say=say)
    if is_service:
        _ask_to_leave(client, now=now, say=say)


def _tell_stop(asked: Sequence[str], *, now: bool, say: Callable[[str], None]) -> None:
    if now:
        say("stopping at once; resuming repeats the epoch under way (orc resume)")
    else:
        say("stopping after the epoch under way, which is saved; again: at once")
        say("to go on later: " + "; ".join(f"orc resume {run_id}" for run_id in asked[:3]))


def _ask_to_leave(client: Client, *, now: bool, say: Callable[[str], None]) -> None:
    client.drain(now=now)
    if now:
        say("leaving at once; the epochs under way are repeated by the next driver")
    else:
        say("leaving once every epoch under way is saved; again: at once")
