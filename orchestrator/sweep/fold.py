"""The state of a sweep as a fold over what it recorded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.sweep.events import (
    Continued,
    Ended,
    Launched,
    Refused,
    Reported,
    Suggested,
    SweepEvent,
)
from orchestrator.sweep.search import Outcome
from orchestrator.sweep.trials import Trial, TrialEpoch, TrialState, Verdict

__all__ = ["Study", "fold", "outcome_of", "scores_of"]


class Study:
    """Every trial of a sweep, by its number. Numbers count suggestions, refused ones included."""

    def __init__(self) -> None:
        self.trials: dict[int, Trial] = {}
        self.active: dict[int, None] = {}  # not ended, in the order of their turns
        self.num_events = 0

    @property
    def num_refused(self) -> int:
        """Suggestions that were never started."""
        return sum(trial.state is TrialState.REFUSED for trial in self.trials.values())

    @property
    def num_started(self) -> int:
        """Trials whose run was, or is about to be, submitted."""
        return len(self.trials) - self.num_refused

    def apply(self, event: SweepEvent) -> None:
        """Take what happened."""
        self.num_events += 1
        match event:
            case Suggested() | Refused():
                self._suggest(event)
            case Launched():
                self._launch(event)
            case Reported():
                self._report(event)
            case Continued():
                self._continue(event)
            case Ended():
                trial = self.trials[event.trial]
                self._put(replace(trial, state=event.state, why=event.why, ended_at=event.at))

    def _put(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        if trial.state.has_ended:
            self.active.pop(trial.number, None)

    def _suggest(self, event: Suggested | Refused) -> None:
        is_refused = isinstance(event, Refused)
        trial = Trial(
            number=event.trial,
            state=TrialState.REFUSED if is_refused else TrialState.SUGGESTED,
            values=event.values,
            settings=event.settings,
            violations=event.violations if isinstance(event, Refused) else {},
            why=event.why if isinstance(event, Refused) else "",
            at=event.at,
        )
        if not is_refused:
            self.active[trial.number] = None
        self._put(trial)

    def _launch(self, event: Launched) -> None:
        trial = self.trials[event.trial]
        runs = (*trial.runs, event.run_id)
        self._put(replace(trial, state=TrialState.ACTIVE, run_id=event.run_id, runs=runs))

    def _report(self, event: Reported) -> None:
        trial = self.trials[event.trial]
        row = TrialEpoch(
            epoch=event.epoch,
            metrics=event.metrics,
            seconds=event.seconds,
            generation=event.generation,
        )
        state = TrialState.PAUSED if event.verdict is Verdict.PAUSE else trial.state
        broken = {**trial.violations, **event.violations}
        self._put(replace(trial, state=state, epochs=(*trial.epochs, row), violations=broken))
        self.active[event.trial] = self.active.pop(event.trial)  # to the end of the turns

    def _continue(self, event: Continued) -> None:
        trial = self.trials[event.trial]
        donors = trial.donors
        if event.donor != event.trial:
            donors = (*donors, (event.donor, event.epoch))
        self._put(
            replace(
                trial,
                state=TrialState.SUGGESTED,
                generation=event.generation,
                values=event.values,
                settings=event.settings,
                start=event.start,
                donors=donors,
            )
        )


def fold(events: Iterable[SweepEvent]) -> Study:
    """The state after these events."""
    study = Study()
    for event in events:
        study.apply(event)
    return study


def scores_of(
    metrics: Mapping[str, float], names: Sequence[str], modes: Sequence[str]
) -> tuple[float, ...]:
    """The metrics of a sweep, the higher the better; empty where one was not reported."""
    if any(name not in metrics for name in names):
        return ()
    return tuple(
        metrics[name] if mode == "max" else -metrics[name]
        for name, mode in zip(names, modes, strict=True)
    )


def outcome_of(trial: Trial, names: Sequence[str], modes: Sequence[str]) -> Outcome:
    """What a searcher is told of a trial: its best epoch, by the first metric."""
    if any(value > 0.0 for value in trial.violations.values()):
        is_refused = trial.state is TrialState.REFUSED
        return Outcome(violations=trial.violations, is_refused=is_refused)
    found = [(scores_of(row.metrics, names, modes), row.epoch) for row in trial.epochs]
    scored = [(scores, epoch) for scores, epoch in found if all(map(math.isfinite, scores))]
    scores, _ = max(scored, default=((), 0), key=lambda pair: pair[0][:1])
    return Outcome(
        scores=scores,
        epoch=trial.last.epoch if trial.last else 0,
        is_whole=trial.state is not TrialState.STOPPED,
        violations=trial.violations,
    )
