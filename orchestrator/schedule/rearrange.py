"""Rounds: a policy says how many cards each run shall have, and gangs are resized to that.

Only runs that take whole cards are sized by a policy. Each round it is told of all that could
train. A gang that shall have another number of cards is asked to leave, and comes back with the
new one from its checkpoint; one that shall have none waits *aside*, out of the queue, until a
later round gives it some. The effective batch stays what it is: only its cut over ranks changes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from orchestrator.schedule.confined import Area, confined_widths
from orchestrator.schedule.lifecycle import Lifecycle
from orchestrator.schedule.policy import Candidate, Policy, legal_widths
from orchestrator.schedule.runs import Resized, RunRecord
from orchestrator.schedule.speedup import Speedups
from orchestrator.schedule.underway import UnderWay
from orchestrator.selectors import Selector
from orchestrator.types import (
    DeviceKind,
    Pace,
    Progress,
    RunId,
    RunSpec,
    RunState,
    Seconds,
    StopReason,
)

__all__ = ["Foresight", "Knowledge", "Rearrange"]

NEXT: Seconds = 1200.0  # of work with the fewest cards: what is trained between changes, and more
SURE = 1.0  # of what is left: a range as wide as that tells an end well enough to go by it
_ALIKE = 0.01

Foresight: TypeAlias = Callable[[RunSpec, int, Sequence[int]], Sequence[Seconds]]
"""Seconds that a run still needs after so many epochs, with each of some widths."""


@dataclass(slots=True)
class Knowledge:
    """What a policy is told of runs: by a foresight, or else as it is learned from their epochs."""

    speedups: Speedups = field(default_factory=Speedups)
    foresight: Foresight | None = None

    def of_next(
        self, spec: RunSpec, epoch: int, widths: Sequence[int], left: Sequence[Seconds]
    ) -> tuple[float, ...] | None:
        """Speedups of the work that comes next; None where they are those of all that is left.

        Args:
            spec: The run.
            epoch: Epochs that are complete.
            widths: That are allowed.
            left: What the foresight tells of them.
        """
        assert self.foresight is not None, "who foresees nothing knows nothing of what comes next"
        for later in range(epoch + 1, spec.settings.epochs):
            if left[0] - self.foresight(spec, later, widths[:1])[0] < NEXT:
                continue
            then = self.foresight(spec, later, widths)
            took = [now - after for now, after in zip(left, then, strict=True)]
            speedups = tuple(took[0] / each for each in took)
            told = zip(speedups, left, strict=True)
            is_same = all(abs(each * x / left[0] - 1.0) < _ALIKE for each, x in told)
            return None if is_same else speedups
        return None


@dataclass(slots=True)
class Rearrange:
    """Asks the policy when a round is due, and lets gangs follow its answer."""

    policy: Policy
    knowledge: Knowledge
    runs: dict[RunId, RunRecord] = field(default_factory=dict)  # sized by the policy, unfinished
    next_at: Seconds = float("-inf")
    epochs: UnderWay = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = UnderWay(self.policy, self.knowledge.speedups)

    def joins(self, record: RunRecord) -> bool:
        """Take a run under the policy's care; False for one that it does not size."""
        spec = record.spec
        if spec.device is not DeviceKind.GPU or record.ask.size is not None:
            return False
        if spec.is_on_one_node and spec.num_gpus > 1:  # rounds count cards, not those of one node
            return False
        self.runs[spec.run_id] = record
        record.ask = replace(record.ask, may_spread=True)
        return True

    @property
    def wakeup(self) -> Seconds | None:
        """When the next round is due; None while there is nobody to size."""
        return self.next_at if self.runs else None

    def look(self, life: Lifecycle) -> None:
        """Hold a round if one is due."""
        if not self.runs or life.now < self.next_at:
            return
        self.next_at = life.now + self.policy.round_seconds
        for run_id in [run_id for run_id, r in self.runs.items() if r.state.is_terminal]:
            del self.runs[run_id]
            self.epochs.forget(run_id)
        movable = [record for record in self.runs.values() if _is_movable(record)]
        widths = self._widths(life, movable)
        while stay := {
            record.spec.run_id
            for record in movable
            if widths.get(record.spec.run_id, 0) < self.epochs.least(record, life.now)
        }:
            movable = [record for record in movable if record.spec.run_id not in stay]
            widths = self._widths(life, movable)
        for record in movable:
            self._follow(life, record, widths.get(record.spec.run_id, 0))

    def _widths(self, life: Lifecycle, movable: Sequence[RunRecord]) -> Mapping[RunId, int]:
        """What the policy says, with all cards but those of gangs that are not asked about."""
        ids = {record.spec.run_id for record in movable}
        return confined_widths(
            self.policy,
            life.now,
            [self._candidate(life, record) for record in movable],
            self._num_gpus(life, ids),
            self._areas(life, movable, ids),
        )

    def _candidate(self, life: Lifecycle, record: RunRecord) -> Candidate:
        spec, widths, now = record.spec, legal_widths(record.spec), life.now
        if least := self.epochs.least(record, now):
            widths = tuple(k for k in widths if k == least or k >= 2 * least)
        attempt = now - record.attempt_started_at if record.attempt_started_at is not None else 0.0
        width = record.placement.world_size if record.placement is not None else 0
        known, speedups_now = self.knowledge, None
        left: Seconds | None
        if known.foresight is not None:
            told = known.foresight(spec, record.epoch, widths)
            speedups_now = known.of_next(spec, record.epoch, widths, told)
            left, speedups = told[0], tuple(told[0] / each if each else 1.0 for each in told)
        else:
            left, speedups = self._left(record), tuple(known.speedups.of(spec, k) for k in widths)
        done = 0.0
        if width in widths:
            done = self.epochs.seconds(record, now) * speedups[widths.index(width)]
        if left is not None:
            whole = left / max(spec.settings.epochs - record.epoch, 1)
            left -= min(done, whole)
        return Candidate(
            run_id=spec.run_id,
            widths=widths,
            speedups=speedups,
            speedups_now=speedups_now,
            width=width,
            left_seconds=left,
            attained_seconds=record.attained + attempt * width,
            submitted_at=record.submitted_at,
            priority=record.priority,
            order=record.order,
            is_foreseen=known.foresight is not None or _is_measured(life, record),
            again_seconds=done if self.epochs.is_lost(record, now) else 0.0,
        )

    def _left(self, record: RunRecord) -> Seconds | None:
        """What is left at the speed of one card, by its own epochs, or those of runs like it."""
        epochs_left = max(record.spec.settings.epochs - record.epoch, 0)
        seconds = record.pace_of_one
        if seconds is None:
            seconds = self.knowledge.speedups.seconds_of_one(record.spec)
        return None if seconds is None else epochs_left * seconds

    def _areas(
        self, life: Lifecycle, records: Iterable[RunRecord], ids: AbstractSet[RunId]
    ) -> dict[RunId, Area]:
        """Where those may be that ask for labels, and the cards that there are for them."""
        known: dict[Selector, Area] = {}
        areas = {}
        for record in records:
            labels = record.ask.labels
            if labels and labels not in known:
                rooms = (room for room in life.ledger.nodes.values() if room.admits(labels))
                nodes = frozenset(room.node.node_id for room in rooms)
                known[labels] = Area(nodes=nodes, num_gpus=self._num_gpus(life, ids, labels))
            if labels:
                areas[record.spec.run_id] = known[labels]
        return areas

    def _num_gpus(self, life: Lifecycle, ids: AbstractSet[RunId], labels: Selector = ()) -> int:
        """Cards for those who can be moved: all, but what others hold or are promised.

        With labels, those of nodes that have them.
        """
        promised = 0
        theirs: set[RunId] = set()
        for run_id, record in self.runs.items():
            if record.wanted_gpus is not None and labels in ((), record.ask.labels):
                promised += record.wanted_gpus  # it leaves to come back with so many
            if record.wanted_gpus is not None or run_id in ids or record.is_leaving_soon:
                theirs.add(run_id)
        gone = frozenset(theirs)
        free = [card for card in life.ledger.cards() if card.has_room(None, leaving=gone)]
        num = sum(not card.node.aside and card.node.admits(labels) for card in free)
        return max(num - promised, 0)

    def _follow(self, life: Lifecycle, record: RunRecord, width: int) -> None:
        if record.state is RunState.PENDING:
            if width != (0 if record.is_aside else record.ask.num_workers):
                life.leave_queue(record)
                record.wanted_gpus = width
                life.wait(record)
            return
        assert record.placement is not None, "a gang that holds cards has a place"
        if width == record.placement.world_size:
            return
        record.wanted_gpus = width
        mode = self.epochs.leave(record, life.now)
        old = record.placement.world_size
        life.stop(record, Resized, StopReason.PREEMPTED, mode)
        record.detail = f"from {old} to {width} cards" if width else "makes room: others go first"

    def adopt(self, life: Lifecycle) -> None:
        """Take all runs that there are under the policy's care; those that wait, wait aside."""
        self.next_at = life.now
        for record in life.runs.values():
            if record.state.is_terminal:
                continue
            is_queued = record.is_queued
            if is_queued:
                life.leave_queue(record)
            is_taken = self.joins(record)
            if is_queued:
                record.wanted_gpus = 0 if is_taken else None
                life.wait(record)

    def release(self, life: Lifecycle) -> None:
        """Let everybody go: those who waited aside are queued, with as many cards as they ask."""
        for record in self.runs.values():
            if record.state.is_terminal:
                continue
            if record.state is RunState.PENDING:
                if record.is_queued:
                    life.leave_queue(record)
                record.wanted_gpus = record.spec.num_gpus
                if record.deadline is None:
                    life.wait(record)
            elif record.wanted_gpus is not None:
                record.wanted_gpus = record.spec.num_gpus
        self.runs.clear()

    def progressed(self, record: RunRecord, progress: Progress, now: Seconds) -> None:
        """An epoch of a run is complete; of one that was begun with other cards nothing is learned.

        What its steps have told stands for that.
        """
        is_mixed = self.epochs.is_mixed(record)
        self.epochs.completed(record, now)
        if is_mixed and record.pace_of_one is not None:
            return
        width = record.placement.world_size if record.placement is not None else 0
        seconds, num_images = progress.seconds, progress.num_images
        self.knowledge.speedups.progressed(record.spec, width, seconds, num_images)
        if width and seconds > 0:
            record.pace_of_one = seconds * self.knowledge.speedups.of(record.spec, width)

    def measured(self, record: RunRecord, pace: Pace) -> None:
        """Steps of a run have told what the epoch under way takes."""
        width = record.placement.world_size if record.placement is not None else 0
        self.knowledge.speedups.measured(record.spec, width, pace)
        if width and pace.seconds > 0:
            record.pace_of_one = pace.seconds * self.knowledge.speedups.of(record.spec, width)


def _is_movable(record: RunRecord) -> bool:
    if record.state is RunState.PENDING:
        return record.deadline is None and not record.waits_for
    return record.state in (RunState.STARTING, RunState.RUNNING)


def _is_measured(life: Lifecycle, record: RunRecord) -> bool:
    """Whether its end rests on epochs of its own, and is told in a range that is narrow enough."""
    left = life.forecasts.left(record) if record.epoch and record.pace_of_one else None
    return left is not None and left.most - left.least <= SURE * left.expected
