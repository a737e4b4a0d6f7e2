"""Finds attempts that hang: silence first, then the worker is asked, then its stacks are taken."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.endings import Ending, failure
from orchestrator.cluster.inbox import Report
from orchestrator.cluster.pulse import Patience, Pulse
from orchestrator.cluster.stacks import dump, stacks_file
from orchestrator.cluster.worker import attempt_folder
from orchestrator.messages import Recut, StartGang
from orchestrator.types import AttemptId, Cause, Seconds

__all__ = ["HangWatch"]


@dataclass(slots=True, kw_only=True)
class _Watched:
    actor: Any
    pid: int
    ray_node: str
    folder: Path
    pulse: Pulse
    asked: Any = None  # the ref of the worker's answer
    dumping: Any = None  # the ref of the task that takes the stacks
    deadline: Seconds = 0.0  # of the answer or the stacks


class HangWatch:
    """Watches every attempt that trains.

    The worker is the one who knows when its trainer last came by: reports are thinned out, and a
    driver that was stopped for an hour has simply not read them. So a silent worker is asked, and
    only one that admits the silence, or does not answer, hangs.

    Args:
        patience: How long silence is taken for work.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._watched: dict[AttemptId, _Watched] = {}
        self._dump = ray.remote(dump)

    def begin(self, order: StartGang, actor: Any, pid: int, ray_node: str) -> None:
        """The attempt trains from now on, as a process of a node that Ray names so."""
        self._watched[order.attempt] = _Watched(
            actor=actor,
            pid=pid,
            ray_node=ray_node,
            folder=attempt_folder(order),
            pulse=Pulse(self._patience, time.monotonic()),
        )

    def note(self, report: Report) -> None:
        """The attempt said something."""
        one = self._watched.get(report.attempt)
        if one is not None:
            said = None if isinstance(report.content, Recut) else report.content
            one.pulse.sign(time.monotonic(), said)
            one.asked = one.dumping = None  # it lives, whatever was suspected

    def end(self, attempt: AttemptId) -> None:
        """The attempt is over."""
        self._watched.pop(attempt, None)

    @property
    def waited(self) -> list[Any]:
        """Refs that are under way."""
        refs = [one.dumping or one.asked for one in self._watched.values()]
        return [ref for ref in refs if ref is not None]

    def overdue(self) -> Iterator[tuple[AttemptId, Ending]]:
        """Ask those who were silent for too long; yields those whose time is up, to be killed."""
        now = time.monotonic()
        for attempt, one in tuple(self._watched.items()):
            if one.dumping is not None:
                if now > one.deadline:
                    self.end(attempt)
                    yield attempt, self._verdict(one, has_stacks=False)
            elif one.asked is not None:
                if now > one.deadline:  # not even a thread of its own gets to answer
                    self._take_stacks(one)
            elif one.pulse.silence(now) > one.pulse.limit:
                one.asked = one.actor.quiet_seconds.remote()
                one.deadline = now + self._patience.answer_seconds

    def resolve(self, ref: Any) -> Iterator[tuple[AttemptId, Ending]]:
        """Take an answer or the stacks; yields an attempt that hangs, to be killed."""
        for attempt, one in tuple(self._watched.items()):
            if ref == one.dumping:
                self.end(attempt)
                yield attempt, self._verdict(one, has_stacks=bool(_answer(ref)))
            elif ref == one.asked:
                self._hear(one, _answer(ref))

    def _hear(self, one: _Watched, quiet_seconds: Seconds | None) -> None:
        one.asked = None
        if quiet_seconds is None:
            one.pulse.sign(time.monotonic())  # its process died, and that is told by itself
        elif quiet_seconds > one.pulse.limit:
            self._take_stacks(one)
        else:
            one.pulse.sign(time.monotonic() - quiet_seconds)

    def _take_stacks(self, one: _Watched) -> None:
        place = NodeAffinitySchedulingStrategy(one.ray_node, soft=False)
        task = self._dump.options(num_cpus=0, max_retries=0, scheduling_strategy=place)
        one.dumping = task.remote(one.pid, str(stacks_file(one.folder)))
        one.deadline = time.monotonic() + self._patience.answer_seconds

    def _verdict(self, one: _Watched, *, has_stacks: bool) -> Ending:
        pulse = one.pulse
        silence = f"no sign of life for {pulse.silence(time.monotonic()):.0f} s"
        if pulse.longest is not None:
            silence += f", {pulse.longest:.1f} s was the longest before"
        stacks = stacks_file(one.folder)
        where = f"its stacks are in {stacks}" if has_stacks else "it could not even tell its stacks"
        return failure(Cause.HANG, f"worker process {one.pid}: {silence}; {where}")


def _answer(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError:
        return None
