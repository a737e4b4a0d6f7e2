"""The inbox: workers push what they report, the driver reads it in batches and acknowledges it."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.messages import (
    Event,
    MicroBatchChanged,
    PaceMeasured,
    ProgressReported,
    Recut,
    StepReported,
)
from orchestrator.types import AttemptId, CheckpointRef, Pace, Progress, Seconds, StepProgress

__all__ = ["Inbox", "InboxReader", "Letter", "Report"]

_MAX_SENDERS = 10_000  # calls that may wait in the inbox at one time: one a worker, and one poll
_ANSWER_SECONDS: Seconds = 30.0  # the inbox answers in milliseconds; longer means that it hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one attempt says while it trains."""

    attempt: AttemptId
    content: Progress | StepProgress | Recut | Pace
    checkpoint: CheckpointRef | None = None

    def event(self, at: Seconds) -> Event:
        """The report as an event that the driver saw at `at`."""
        if isinstance(self.content, StepProgress):
            return StepReported(at=at, attempt=self.attempt, step=self.content)
        if isinstance(self.content, Recut):
            return MicroBatchChanged(at=at, attempt=self.attempt, recut=self.content)
        if isinstance(self.content, Pace):
            return PaceMeasured(at=at, attempt=self.attempt, pace=self.content)
        return ProgressReported(
            at=at, attempt=self.attempt, progress=self.content, checkpoint=self.checkpoint
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A report with its place in the order of arrival, counted from 1."""

    number: int
    report: Report


class Inbox:
    """Keeps letters until the driver has recorded them. It runs as an async actor.

    Reading is idempotent: a reader names the last letter it has, and gets every later one, so an
    answer that is lost, late or read twice loses and doubles nothing.
    """

    def __init__(self) -> None:
        self._letters: deque[Letter] = deque()
        self._last = 0
        self._recorded = 0
        self._refused: set[int] = set()
        self._changed = asyncio.Condition()

    async def step(self, report: Report) -> None:
        """Take a sign of life. Nobody waits for it."""
        self._put(report)
        await self._tell()

    async def report(self, report: Report) -> int:
        """Take the report of an epoch; the answer is its number, for `recorded`."""
        number = self._put(report)
        await self._tell()
        return number

    async def recorded(self, number: int) -> bool:
        """Return when the driver is done with everything up to `number`.

        False: it has refused that letter, since the attempt is over. Whoever sent it must leave
        the run's files alone from now on: they are another attempt's.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._recorded >= number)
        return number not in self._refused

    async def poll(
        self, after: int, recorded: int = 0, refused: Sequence[int] = ()
    ) -> Sequence[Letter]:
        """Acknowledge what is `recorded`, wait for letters later than `after`, return them all."""
        if recorded > self._recorded:
            await self.acknowledge(recorded, refused)
        async with self._changed:
            await self._changed.wait_for(lambda: self._last > after)
        return self._later(after)

    async def take(self, after: int) -> Sequence[Letter]:
        """Return the letters later than `after` that are there now."""
        return self._later(after)

    async def acknowledge(self, number: int, refused: Sequence[int] = ()) -> None:
        """Everything up to `number` is recorded or `refused`: forget it, let its senders go on."""
        self._refused.update(refused)
        self._recorded = max(self._recorded, number)
        while self._letters and self._letters[0].number <= self._recorded:
            self._letters.popleft()
        await self._tell()

    def _put(self, report: Report) -> int:
        self._last += 1
        self._letters.append(Letter(number=self._last, report=report))
        return self._last

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _later(self, after: int) -> tuple[Letter, ...]:
        return tuple(letter for letter in self._letters if letter.number > after)


class InboxReader:
    """The driver's side: one outstanding poll, and a way to read what is there now.

    Args:
        node_id: Where the inbox runs.
        is_under_way: Tells of an attempt whether it is; what others say is refused.
    """

    def __init__(self, node_id: str, is_under_way: Callable[[AttemptId], bool]) -> None:
        self._is_under_way = is_under_way
        self._refused: list[int] = []
        self._actor = ray.remote(Inbox).options(
            num_cpus=0,
            max_restarts=0,
            max_concurrency=_MAX_SENDERS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        self._seen = 0
        self._acknowledged = 0
        self.polled: Any = None
        self.open()

    def open(self) -> None:
        """Begin with an empty inbox: at first, and after the process of the last one died."""
        self.handle = self._actor.remote()
        self._seen = self._acknowledged = 0
        self._refused = []
        self.polled = None

    def catch_up(self) -> None:
        """What was read so far is recorded: let its senders go on, and wait for more."""
        if self.polled is None:
            self.polled = self.handle.poll.remote(self._seen, self._seen, self._refused)
        elif self._acknowledged < self._seen:
            self.handle.acknowledge.remote(self._seen, self._refused)
        else:
            return
        self._acknowledged, self._refused = self._seen, []

    def read(self) -> list[Report]:
        """The reports of the poll, which is ready.

        Raises:
            RayError: The process of the inbox died.
        """
        ref, self.polled = self.polled, None
        return self._new(ray.get(ref))

    def take(self) -> list[Report]:
        """The reports that are there now, not waiting for any.

        Raises:
            RayError: The process of the inbox died, or does not answer.
        """
        return self._new(ray.get(self.handle.take.remote(self._seen), timeout=_ANSWER_SECONDS))

    def close(self) -> None:
        """End the inbox."""
        ray.kill(self.handle)

    def _new(self, letters: Sequence[Letter]) -> list[Report]:
        fresh = [letter for letter in letters if letter.number > self._seen]
        if fresh:
            self._seen = fresh[-1].number
        known = [letter for letter in fresh if self._is_under_way(letter.report.attempt)]
        kept = {letter.number for letter in known}
        self._refused += [
            letter.number
            for letter in fresh
            if letter.number not in kept and not isinstance(letter.report.content, StepProgress)
        ]
        return [letter.report for letter in known]
