"""Conducts a sweep: suggests, refuses what cannot fit, submits, takes reports, decides.

Everything is recorded before anything follows from it, and what is recorded rebuilds the state of
the searcher and of the scheduler: a sweep goes on where it was left, whoever was killed.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping

from orchestrator.errors import PlanError
from orchestrator.sweep.deciding import Decider, next_generation, segment_end
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.events import Ended, Launched, Refused, Reported, Suggested, SweepEvent
from orchestrator.sweep.fold import Study, outcome_of
from orchestrator.sweep.ports import Look, Recorder, Runs
from orchestrator.sweep.search import Searcher
from orchestrator.sweep.space import settings_of
from orchestrator.sweep.stopping import Rung
from orchestrator.sweep.trials import Trial, TrialState
from orchestrator.types import Progress, RunId, RunState, Seconds

__all__ = ["Conductor"]

_MOST_REFUSED = 500  # in a row: then nothing of the space seems to fit
_END = {
    RunState.SUCCEEDED: TrialState.FINISHED,
    RunState.FAILED: TrialState.FAILED,
    RunState.CANCELLED: TrialState.STOPPED,  # by a person, who stopped this run alone
}


class Conductor:
    """One sweep while it is conducted.

    Args:
        definition: What the sweep is.
        searcher: A fresh one.
        runs: Where trials are planned and trained.
        recorder: Where it is recorded.
        clock: Tells the Unix time.
        said: Told what a person should know, a sentence at a time.
    """

    def __init__(
        self,
        definition: Definition,
        searcher: Searcher,
        runs: Runs,
        recorder: Recorder,
        clock: Callable[[], Seconds],
        said: Callable[[str], None] | None = None,
    ) -> None:
        self.definition = definition
        self.study = Study()
        self._decider = Decider(definition, said or _unheard)
        self.is_stopping = False
        self._searcher = searcher
        self._runs = runs
        self._recorder = recorder
        self._clock = clock
        self._is_exhausted = False
        self._num_refused = 0  # in a row
        self._leaving: dict[RunId, None] = {}  # ended by us; still on their cards, as far as known

    def replay(self, events: Iterable[SweepEvent]) -> None:
        """Take over what was recorded: end the runs of trials that had been stopped by then.

        Runs that were ended together with the sweep go on.
        """
        for event in events:
            if isinstance(event, Suggested | Refused):
                self._searcher.take(event.trial, event.values)
            if isinstance(event, Reported):
                self._decider.replay(event)
            self._apply(event)
        early = (TrialState.STOPPED, TrialState.INFEASIBLE)
        ended = [t.run_id for t in self.study.trials.values() if t.state in early and t.run_id]
        self._runs.cancel(ended)
        self._leaving = dict.fromkeys(ended)
        self._runs.revive([t.run_id for t in self._active() if t.run_id])

    @property
    def rungs(self) -> tuple[tuple[Rung, ...], ...]:
        """Who reached which rung with which score."""
        return self._decider.stopper.rungs

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_stopping or not (self.study.active or self._may_suggest())

    def advance(self) -> bool:
        """Do what can be done now; False when nothing had happened."""
        before = len(self.study.trials), self.study.num_events
        looks = self._look()
        self._fill()
        if self.definition.order == "fixed":
            self._take_turns(looks)
        else:
            for number in tuple(self.study.active):
                while self._take(number, looks):
                    pass
                self._fill()
        if self.definition.scheduler == "pbt" and not self._may_suggest():
            self._record(
                *next_generation(
                    self.definition,
                    self._active(),
                    self._runs.checkpoint,
                    lambda settings: self._runs.judge(settings).fits,
                    self._clock(),
                )
            )
        return (len(self.study.trials), self.study.num_events) != before

    def stop(self) -> Collection[RunId]:
        """End what trains, and say what that is; the sweep can go on later."""
        self.is_stopping = True
        ended = [trial.run_id for trial in self._active() if trial.run_id]
        self._runs.cancel(ended)
        return ended

    def _may_suggest(self) -> bool:
        return not self._is_exhausted and self.study.num_started < self.definition.trials

    def _fill(self) -> None:
        """Start what there is room for; a run that has yet to leave its card takes room.

        In fixed order a suggestion does not wait for that, as timing would decide what it knows:
        its start does.
        """
        active = self._active()
        waiting = [t for t in active if t.state is TrialState.SUGGESTED]
        room = self.definition.max_concurrent - sum(t.state is TrialState.ACTIVE for t in active)
        free = room - len(self._leaving)
        for trial in waiting[: max(free, 0)]:
            self._launch(trial)
            free -= 1
        room -= len(waiting)
        if self.definition.order != "fixed":
            room = free
        while room > 0 and not self.is_stopping and self._may_suggest():
            suggested = self._suggest()
            if suggested is not None:
                room -= 1
                if free > 0:
                    self._launch(suggested)
                    free -= 1

    def _suggest(self) -> Trial | None:
        """A new trial; None where its values cannot run, or there are no more."""
        number = len(self.study.trials) + 1
        values = self._searcher.suggest(number)
        if values is None:
            self._is_exhausted = True
            return None
        settings = settings_of(self.definition.space, values, self.definition.batch)
        found = self._runs.judge(settings)
        if found.fits:
            self._num_refused = 0
            need = found.need_bytes
            self._record(
                Suggested(
                    at=self._clock(),
                    trial=number,
                    values=values,
                    settings=settings,
                    need_bytes=need,
                )
            )
            return self.study.trials[number]
        self._num_refused += 1
        self._record(
            Refused(
                at=self._clock(),
                trial=number,
                values=values,
                settings=settings,
                violations=found.violations,
                why=found.why,
            )
        )
        if self._num_refused >= _MOST_REFUSED:
            raise PlanError(
                f"{self._num_refused} suggestions in a row fit no card or not the limits",
                code="E2030",
                why=(found.why,),
                fix=("allow smaller values: model, imgsz", "or wider limits, or larger cards"),
            )
        return None

    def _launch(self, trial: Trial) -> None:
        run_id = self._runs.submit(
            f"sweep {self.definition.name} {trial.number}.{trial.generation}",
            trial.settings,
            start=trial.start,
            until=segment_end(self.definition, trial),
        )
        self._record(
            Launched(
                at=self._clock(), trial=trial.number, run_id=run_id, generation=trial.generation
            )
        )

    def _look(self) -> Mapping[RunId, Look]:
        if self._leaving:
            gone = self._runs.look(dict.fromkeys(self._leaving, sys.maxsize))
            for run_id, look in gone.items():
                if look.state.is_terminal:
                    del self._leaving[run_id]
        known = {
            trial.run_id: trial.last.epoch if trial.last else 0
            for trial in self._active()
            if trial.state is TrialState.ACTIVE and trial.run_id
        }
        return self._runs.look(known) if known else {}

    def _take_turns(self, looks: Mapping[RunId, Look]) -> None:
        """Take reports trial by trial in turn; who has none to give is waited for."""
        while not self._is_held():
            turn = next((t for t in self._active() if t.state is TrialState.ACTIVE), None)
            if turn is None or not self._take(turn.number, looks):
                return
            self._fill()

    def _is_held(self) -> bool:
        """Whether a trial would start now, were it not for a run that has yet to leave its card."""
        states = [trial.state for trial in self._active()]
        has_room = states.count(TrialState.ACTIVE) < self.definition.max_concurrent
        return bool(self._leaving) and has_room and TrialState.SUGGESTED in states

    def _take(self, number: int, looks: Mapping[RunId, Look]) -> bool:
        """Take a trial's next epoch or its end; False where there is neither."""
        trial = self.study.trials[number]
        look = looks.get(trial.run_id) if trial.run_id else None
        if trial.state is not TrialState.ACTIVE or look is None:
            return False
        last = trial.last.epoch if trial.last else 0
        row = next((row for row in look.epochs if row.epoch > last), None)
        if row is not None:
            self._report(trial, row, look.watts)
            return True
        if not look.state.is_terminal:
            return False
        self._record(Ended(at=self._clock(), trial=number, state=_END[look.state], why=look.why))
        return True

    def _report(self, trial: Trial, row: Progress, watts: float | None) -> None:
        """Record an epoch with what is decided; a trial that ends so frees its card at once."""
        events = self._decider.decide(trial, row, self._clock(), watts)
        self._record(*events)
        if self.study.trials[trial.number].state.has_ended and trial.run_id:
            self._runs.cancel([trial.run_id])
            self._leaving[trial.run_id] = None

    def _active(self) -> list[Trial]:
        return [self.study.trials[number] for number in self.study.active]

    def _record(self, *events: SweepEvent) -> None:
        if events:
            self._recorder.record(events)
        for event in events:
            self._apply(event)

    def _apply(self, event: SweepEvent) -> None:
        self.study.apply(event)
        if isinstance(event, Ended | Refused):
            trial = self.study.trials[event.trial]
            outcome = outcome_of(trial, self.definition.metrics, self.definition.modes)
            self._searcher.tell(event.trial, outcome)


def _unheard(_: str) -> None:
    pass
