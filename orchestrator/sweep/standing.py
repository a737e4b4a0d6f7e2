"""Where a sweep stands: counts, the best so far, what is refused, and about when it ends."""

from collections import Counter
from dataclasses import dataclass

from orchestrator.sweep.definition import Definition
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.trials import SweepState, Trial, TrialState
from orchestrator.types import Seconds

__all__ = ["Scores", "Standing", "seconds_left", "standing_of"]

_RUNNING = (TrialState.SUGGESTED, TrialState.ACTIVE, TrialState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A sweep in numbers.

    `trials` is how many it may start. `metrics` are those of the best trial, in their own signs.
    `left` is the forecast of seconds to its end, None where nothing can be said.
    """

    name: str
    state: SweepState
    trials: int
    running: int
    finished: int
    stopped: int
    infeasible: int
    failed: int
    refused: int
    share_refused: float
    best: Trial | None
    metrics: tuple[float, ...]
    left: Seconds | None

    @property
    def started(self) -> int:
        """Trials that were not refused."""
        return self.running + self.ended

    @property
    def ended(self) -> int:
        """Trials of which nothing more comes."""
        return self.finished + self.stopped + self.infeasible + self.failed


class Scores:
    """The scores of a sweep's trials, each worked out once: records are read again and again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Trial, tuple[float, ...]]] = {}

    def of(self, record: SweepRecord, trial: Trial) -> tuple[float, ...]:
        """As `SweepRecord.score`."""
        found = self._known.get(trial.number)
        if found is None or found[0] is not trial:
            found = trial, record.score(trial)
            self._known[trial.number] = found
        return found[1]


def standing_of(record: SweepRecord, now: Seconds, scores: Scores | None = None) -> Standing:
    """Where a sweep stands at a Unix time."""
    known = scores or Scores()
    states = Counter(trial.state for trial in record.trials)
    scored = [trial for trial in record.trials if known.of(record, trial)]
    best = max(scored, key=lambda t: (known.of(record, t)[0], -t.number), default=None)
    return Standing(
        name=record.definition.name,
        state=record.state,
        trials=record.definition.trials,
        running=sum(states[state] for state in _RUNNING),
        finished=states[TrialState.FINISHED],
        stopped=states[TrialState.STOPPED],
        infeasible=states[TrialState.INFEASIBLE],
        failed=states[TrialState.FAILED],
        refused=states[TrialState.REFUSED],
        share_refused=record.share_refused,
        best=best,
        metrics=record.metrics(best) if best else (),
        left=seconds_left(record.definition, record.started, now)
        if record.state is SweepState.RUNNING
        else None,
    )


def seconds_left(
    definition: Definition, started: tuple[Trial, ...], now: Seconds
) -> Seconds | None:
    """Seconds to the end of a sweep, at the mean span of the trials that have ended.

    What is left of the trials that go on, and the whole of those to come, is shared by as many
    trials at a time as the sweep may have.

    Returns:
        None before the first trial has ended.
    """
    spans = [t.ended_at - t.at for t in started if t.ended_at is not None]
    if not spans:
        return None
    mean = sum(spans) / len(spans)
    active = [max(mean - (now - t.at), 0.0) for t in started if not t.state.has_ended]
    to_come = max(definition.trials - len(started), 0)
    lanes = max(min(definition.max_concurrent, len(active) + to_come), 1)
    return max((sum(active) + to_come * mean) / lanes, max(active, default=0.0))
