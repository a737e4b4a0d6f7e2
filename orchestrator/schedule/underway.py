"""Epochs under way: how far gangs are, what a change of theirs repeats, and when it may be made.

Trainers of the product keep what is done of an epoch where a gang leaves. A gang of another one
repeats it. The policy is told how much that is, as work on top
of what is left with any other width, and decides whether the change is worth it. Where the epoch
ends before the next round it is waited for, and nothing is repeated. An epoch is broken off once;
after that only for twice the cards, so every epoch is completed at last.
"""

import math
from dataclasses import dataclass, field

from orchestrator.schedule.policy import Policy
from orchestrator.schedule.runs import RunRecord
from orchestrator.schedule.speedup import Speedups
from orchestrator.types import RunId, RunState, Seconds, StopMode

__all__ = ["UnderWay"]


@dataclass(slots=True)
class UnderWay:
    """Follows the epochs of runs that a policy sizes.

    Where the policy's gangs leave at a batch (`StopMode.AT_BATCH`), or the trainer keeps what is
    done of an epoch, nothing is ever repeated.
    """

    policy: Policy
    speedups: Speedups
    _began: dict[RunId, Seconds] = field(default_factory=dict)  # where one ended before
    _broken_off: dict[RunId, int] = field(default_factory=dict)  # epochs complete at that time

    def completed(self, record: RunRecord, now: Seconds) -> None:
        """An epoch of a run is complete, and the next one begins."""
        self._began[record.spec.run_id] = now

    def is_mixed(self, record: RunRecord) -> bool:
        """Whether the epoch under way was begun by an attempt before, maybe with other cards."""
        if record.attempt == 1 or not self._keeps(record):
            return False
        began = self._began.get(record.spec.run_id, -math.inf)
        return record.attempt_started_at is None or began < record.attempt_started_at

    def forget(self, run_id: RunId) -> None:
        """A run has ended."""
        self._began.pop(run_id, None)
        self._broken_off.pop(run_id, None)

    def seconds(self, record: RunRecord, now: Seconds) -> Seconds:
        """How long a gang has trained the epoch under way; 0 where it would keep that."""
        if self._keeps(record) or record.state is not RunState.RUNNING:
            return 0.0
        assert record.attempt_started_at is not None, "a gang that trains has started"
        began = self._began.get(record.spec.run_id, -math.inf)
        return now - max(record.attempt_started_at, began)

    def is_lost(self, record: RunRecord, now: Seconds) -> bool:
        """Whether that is repeated if the gang is changed now: its epoch does not end soon."""
        if self._keeps(record) or record.state is not RunState.RUNNING:
            return False
        whole = self._whole(record)
        return whole is None or whole - self.seconds(record, now) > self.policy.round_seconds

    def least(self, record: RunRecord, now: Seconds) -> int:
        """Cards that a gang keeps for now; 0 for one that may be changed at will."""
        if self._broken_off.get(record.spec.run_id) != record.epoch or record.placement is None:
            return 0
        return record.placement.world_size if self.is_lost(record, now) else 0

    def leave(self, record: RunRecord, now: Seconds) -> StopMode | None:
        """How a gang is to leave; None for one that has not come up."""
        if record.state is not RunState.RUNNING:
            return None
        if self._keeps(record):
            return StopMode.AT_BATCH
        if not self.is_lost(record, now):
            return self.policy.resize_mode
        self._broken_off[record.spec.run_id] = record.epoch
        return StopMode.AT_BATCH

    def _keeps(self, record: RunRecord) -> bool:
        return self.policy.resize_mode is StopMode.AT_BATCH or record.spec.keeps_epochs

    def _whole(self, record: RunRecord) -> Seconds | None:
        """Seconds of the epoch that is under way, with the cards that the gang has."""
        spec, place = record.spec, record.placement
        one = record.pace_of_one or self.speedups.seconds_of_one(spec)
        width = place.world_size if place is not None else 0
        return one / self.speedups.of(spec, width) if one is not None and width else None
