"""How fast attempts run in a simulation: to start, an epoch, to leave; and unfinished epochs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.cluster.sim_cards import SimCards
from orchestrator.cluster.sim_gang import Gang, Luck, option
from orchestrator.messages import PaceMeasured, StartGang
from orchestrator.types import Pace, RunId, RunSpec, Seconds

__all__ = ["MEASURED_AFTER", "Paces", "Physics", "Span"]

CUT_COSTS = 0.1  # accumulating gradients costs a tenth of the speed

MEASURED_AFTER: Seconds = 30.0  # of steps, until a worker of the product tells its pace

Span: TypeAlias = tuple[Seconds, Seconds]

EpochSeconds: TypeAlias = Callable[[StartGang, int], Seconds]
"""Seconds of an epoch (counted from 1) of a gang, given where and how it runs."""


EpochImages: TypeAlias = Callable[[RunSpec, int], int]
"""Images of an epoch (counted from 1) of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """The rules of time in a simulated cluster.

    Args:
        speeds: What the seconds of an epoch are divided by, per name of card.
        epoch_seconds: Seconds of each epoch, in place of the option `epoch_seconds` of a run.
        epoch_images: Images of each epoch, as gangs report them; by default none is told.
        start_seconds: From the order to start until the gang is up, between these.
        yield_seconds: From the order to leave until the gang has left, between these.
        keeps_unfinished_epochs: Whether a gang that is asked to leave within an epoch saves what
            it has done of it, whatever its trainer; otherwise those of the product alone do.
        measured_after: Seconds of steps after which a gang tells what an epoch takes; None: never.
    """

    speeds: Mapping[str, float] = field(default_factory=dict)
    epoch_seconds: EpochSeconds | None = None
    epoch_images: EpochImages | None = None
    start_seconds: Span = (5.0, 20.0)
    yield_seconds: Span = (1.0, 10.0)
    keeps_unfinished_epochs: bool = False
    measured_after: Seconds | None = None


@dataclass(slots=True)
class Paces:
    """Applies the rules to gangs, and remembers what was done of unfinished epochs."""

    physics: Physics
    luck: Luck
    cards: SimCards
    _unfinished: dict[RunId, tuple[int, float]] = field(default_factory=dict)

    def starting(self, gang: Gang) -> Seconds:
        """From the order to start until the gang is up."""
        return self.luck.between(gang.start.attempt, "start", self.physics.start_seconds)

    def leaving(self, gang: Gang) -> Seconds:
        """From the order to leave until the gang has left."""
        return self.luck.between(gang.start.attempt, "yield", self.physics.yield_seconds)

    def begin(self, gang: Gang) -> None:
        """The gang is up: what does an epoch take, and what of it was done before?"""
        epoch, done = self._unfinished.get(gang.start.spec.run_id, (0, 0.0))
        gang.done = done if epoch == gang.epoch else 0.0
        gang.epoch_seconds = self._seconds(gang)

    def next_epoch(self, gang: Gang, now: Seconds) -> Seconds:
        """An epoch begins; returns the seconds until it is complete."""
        gang.epoch_began = now
        if self.physics.epoch_seconds is not None:
            gang.epoch_seconds = self.physics.epoch_seconds(gang.start, gang.epoch + 1)
        return gang.epoch_seconds * (1.0 - gang.done)

    def num_images(self, gang: Gang, epoch: int) -> int:
        """Images of an epoch."""
        told = self.physics.epoch_images
        return 0 if told is None else told(gang.start.spec, epoch)

    def measured(self, gang: Gang, now: Seconds) -> PaceMeasured | None:
        """What the first steps tell of an epoch; None where it is over before they could."""
        after = self.physics.measured_after
        if after is None or gang.is_deaf or gang.epoch_seconds * (1.0 - gang.done) <= after:
            return None
        epoch = gang.epoch + 1
        images = self.num_images(gang, epoch)
        pace = Pace(epoch=epoch, seconds=gang.epoch_seconds, num_images=images)
        return PaceMeasured(at=now + after, attempt=gang.start.attempt, pace=pace)

    def interrupt(self, gang: Gang, now: Seconds) -> None:
        """The gang leaves within an epoch."""
        keeps = self.physics.keeps_unfinished_epochs or gang.start.spec.keeps_epochs
        if keeps and gang.epoch_seconds > 0:
            done = gang.done + (now - gang.epoch_began) / gang.epoch_seconds
            self._unfinished[gang.start.spec.run_id] = (gang.epoch, min(done, 1.0))

    def _seconds(self, gang: Gang) -> Seconds:
        start = gang.start
        if self.physics.epoch_seconds is not None:
            return self.physics.epoch_seconds(start, gang.epoch + 1)
        seconds = float(option(start, "epoch_seconds", 60.0))
        if start.batch.accumulation_steps > 1:
            seconds *= 1.0 + CUT_COSTS
        if self.luck.strikes(gang, "straggler"):
            seconds *= self.luck.faults.straggler_factor
        speeds = (self.cards.speed(share) for share in start.placement.shares)
        return seconds / min(speeds, default=1.0)
