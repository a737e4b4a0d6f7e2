"""Runs that come after other runs: who waits for whom, and what follows from an end.

A run waits until every run it comes after has SUCCEEDED. When one of those ends otherwise, it ends
too, for a cause of its own, and so does what comes after it. A run can come only after runs that
were submitted before it, so nothing ever waits in a circle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.schedule.runs import RunRecord
from orchestrator.types import CheckpointRef, RunId, RunSpec, RunState

__all__ = ["Dependencies", "best_checkpoint", "predecessors", "why_not"]


def predecessors(spec: RunSpec) -> tuple[RunId, ...]:
    """The runs that have to succeed before this one starts, each once."""
    source = () if spec.weights_from is None else (spec.weights_from,)
    return tuple(dict.fromkeys((*spec.after, *source)))


def best_checkpoint(record: RunRecord) -> CheckpointRef | None:
    """The recorded checkpoint of the best epoch; the newest one where none was the best.

    Epochs that an earlier attempt recorded, and from before which a later one went on, are not
    part of the run any more.
    """
    line: list[CheckpointRef] = []
    for ref in record.checkpoints:  # newest first
        if not line or ref.epoch < line[-1].epoch:
            line.append(ref)
    return next((ref for ref in line if ref.is_best), line[0] if line else None)


@dataclass(slots=True)
class Dependencies:
    """Who waits for whom. `record.waits_for` are the runs that have yet to succeed."""

    runs: Mapping[RunId, RunRecord]
    _followers: dict[RunId, dict[RunId, None]] = field(default_factory=dict)

    def join(self, record: RunRecord) -> str:
        """Let a run that is to go (again) wait for the runs that it comes after.

        Returns:
            Why it can never start, in words; empty when it can.
        """
        waits_for: list[RunId] = []
        for run_id in predecessors(record.spec):
            other = self.runs.get(run_id)
            if other is None or other is record:
                return f"it comes after {run_id}, and no such run was submitted before it"
            if other.state.is_terminal and other.state is not RunState.SUCCEEDED:
                return why_not(other)
            if other.state is not RunState.SUCCEEDED:
                waits_for.append(run_id)
        record.waits_for = tuple(waits_for)
        for run_id in waits_for:
            self._followers.setdefault(run_id, {})[record.spec.run_id] = None
        return ""

    def settle(self, record: RunRecord) -> Iterator[RunRecord]:
        """The runs that do not wait any more, now that this one has ended.

        After a success those that wait for nothing else; otherwise all that came after it.
        """
        run_id = record.spec.run_id
        for name in self._followers.pop(run_id, {}):
            follower = self.runs[name]
            if run_id not in follower.waits_for:
                continue  # it was cancelled meanwhile
            if record.state is not RunState.SUCCEEDED:
                yield follower
                continue
            follower.waits_for = tuple(other for other in follower.waits_for if other != run_id)
            if not follower.waits_for:
                yield follower

    def weights(self, spec: RunSpec) -> CheckpointRef | None:
        """The checkpoint whose weights a fresh start begins with."""
        return None if spec.weights_from is None else best_checkpoint(self.runs[spec.weights_from])

    def check(self) -> None:
        """Check the laws between runs; for tests and simulations.

        Raises:
            AssertionError: a law is broken; the message names the run.
        """
        for run_id, record in self.runs.items():
            missing = [
                other
                for other in predecessors(record.spec)
                if other not in self.runs or self.runs[other].state is not RunState.SUCCEEDED
            ]
            if record.attempt or record.state is RunState.SUCCEEDED:
                assert not missing, f"{run_id} was started before {missing} succeeded"
            if record.state is RunState.PENDING:
                assert set(missing) == set(record.waits_for), run_id
            for other in record.waits_for:
                assert record.state is RunState.PENDING, f"{run_id} {record.state} waits"
                assert not self.runs[other].state.is_terminal, f"{run_id} waits for {other}"
                assert run_id in self._followers[other], f"{run_id} will not hear of {other}"


def why_not(other: RunRecord) -> str:
    """Why what comes after a run that has ended without success cannot start, in words."""
    cause = f" ({other.cause})" if other.cause else ""
    name = other.spec.run_id
    return f"it comes after {name}, which {other.state}{cause}; resume that run first, then this"
