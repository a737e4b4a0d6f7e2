"""What follows from a reported epoch, and from the end of an interval of a population."""

import math
import random
from collections.abc import Callable, Mapping, Sequence

from orchestrator.sweep.definition import Definition
from orchestrator.sweep.events import Continued, Ended, Reported, SweepEvent
from orchestrator.sweep.fold import scores_of
from orchestrator.sweep.population import steps
from orchestrator.sweep.space import Values, settings_of
from orchestrator.sweep.stopping import stopper_of
from orchestrator.sweep.trials import Trial, TrialState, Verdict
from orchestrator.types import CheckpointRef, Progress, RunId, Seconds

__all__ = ["Decider", "next_generation", "segment_end"]


class Decider:
    """Decides about trials, epoch by epoch; a fold over reports.

    Args:
        definition: What the sweep is.
        said: Told what a person should know.
    """

    def __init__(self, definition: Definition, said: Callable[[str], None]) -> None:
        self._definition = definition
        self._said = said
        self._has_missed = False
        self._has_no_watts = False
        self.stopper = stopper_of(
            definition.scheduler,
            grace=definition.grace,
            reduction=definition.reduction,
            epochs=definition.epochs,
        )

    def replay(self, event: Reported) -> None:
        """Take over a report that was decided before."""
        self._is_stopped(event.trial, event.epoch, event.metrics)

    def decide(
        self, trial: Trial, row: Progress, at: Seconds, watts: float | None = None
    ) -> Sequence[SweepEvent]:
        """The report of an epoch with its verdict, and the end of the trial where it is that.

        `watts` is what the trial's part of its card draws at most.
        """
        broken = self._broken(row, watts)
        is_stopped = self._is_stopped(trial.number, row.epoch, row.metrics)
        verdict, end = Verdict.GO_ON, None
        if any(value > 0.0 for value in broken.values()):
            verdict, end = Verdict.INFEASIBLE, TrialState.INFEASIBLE
        elif is_stopped:
            verdict, end = Verdict.STOP, TrialState.STOPPED
        elif row.epoch == segment_end(self._definition, trial):
            verdict = Verdict.PAUSE
        report = Reported(
            at=at,
            trial=trial.number,
            epoch=row.epoch,
            metrics=row.metrics,
            seconds=row.seconds,
            verdict=verdict,
            generation=trial.generation,
            violations=broken,
        )
        if end is None:
            return (report,)
        why = f"epoch {row.epoch} took {row.seconds:.1f} s" if broken else ""
        if "energy" in broken and watts is not None:
            why += f" at {watts:.0f} W"
        return report, Ended(at=at, trial=trial.number, state=end, why=why)

    def _broken(self, row: Progress, watts: float | None) -> Mapping[str, float]:
        """Limits that only measuring shows, where the epoch breaks them."""
        limits = self._definition.limits
        taken = {
            "seconds_per_epoch": (row.seconds, limits.seconds_per_epoch),
            "energy": (row.seconds * (watts or 0.0) / 3600.0, limits.energy),
        }
        if limits.energy is not None and watts is None and not self._has_no_watts:
            self._has_no_watts = True
            self._said("limits.energy is not held: the power of the card is not known")
        return {
            name: value / most - 1.0
            for name, (value, most) in taken.items()
            if most is not None and value > most
        }

    def _is_stopped(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        scores = scores_of(metrics, self._definition.metrics, self._definition.modes)
        if scores:
            score = scores[0] if math.isfinite(scores[0]) else -math.inf
            return self.stopper.report(trial, epoch, score)
        if not self._has_missed:
            self._has_missed = True
            missing = [name for name in self._definition.metrics if name not in metrics]
            self._said(
                f"trial {trial} does not report {', '.join(missing)}: it goes on, and nothing is"
                f" decided by it (reported: {', '.join(sorted(metrics)) or 'nothing'})"
            )
        return False


def segment_end(definition: Definition, trial: Trial) -> int | None:
    """Where the run of a population's trial ends: after the interval of its generation."""
    if definition.scheduler != "pbt":
        return None
    end = definition.interval * (trial.generation + 1)
    return end if end < definition.epochs else None


def next_generation(
    definition: Definition,
    active: Sequence[Trial],
    checkpoint: Callable[[RunId], CheckpointRef | None],
    fits: Callable[[Values], bool],
    at: Seconds,
) -> Sequence[SweepEvent]:
    """How a population goes on, once all of it has come to the end of an interval; else nothing.

    Args:
        definition: What the sweep is.
        active: The trials that have not ended.
        checkpoint: Finds the newest one of a run.
        fits: Whether settings can run; a clone that could not keeps the values of its donor.
        at: Unix time.
    """
    if not active or any(trial.state is not TrialState.PAUSED for trial in active):
        return ()
    names, modes = definition.metrics, definition.modes
    scores: dict[int, float] = {}
    for trial in active:
        found = scores_of(trial.last.metrics, names, modes) if trial.last else ()
        is_number = bool(found) and math.isfinite(found[0])
        scores[trial.number] = found[0] if is_number else -math.inf
    generation = max(trial.generation for trial in active) + 1
    found_steps = steps(
        definition.space,
        scores,
        {trial.number: trial.values for trial in active},
        random.Random(f"{definition.seed}/{generation}/population"),
    )
    refs = {t.number: checkpoint(t.run_id) if t.run_id else None for t in active}
    events: list[SweepEvent] = []
    for trial in active:
        step = found_steps[trial.number]
        ref = refs[step.donor]
        if ref is None:
            why = f"trial {step.donor} has no checkpoint to go on from"
            events.append(Ended(at=at, trial=trial.number, state=TrialState.FAILED, why=why))
            continue
        values, settings = step.values, settings_of(definition.space, step.values, definition.batch)
        if step.donor != trial.number and not fits(settings):
            values = next(each.values for each in active if each.number == step.donor)
            settings = settings_of(definition.space, values, definition.batch)
        events.append(
            Continued(
                at=at,
                trial=trial.number,
                generation=generation,
                donor=step.donor,
                epoch=ref.epoch,
                values=values,
                settings=settings,
                start=ref,
            )
        )
    return events
