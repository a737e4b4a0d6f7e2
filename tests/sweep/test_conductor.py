"""Conducting: refusals, decisions, and death at any moment, against runs that are formulas."""

import importlib.util
import random
from contextlib import suppress

import pytest

from orchestrator.errors import PlanError
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.deciding import Decider
from orchestrator.sweep.definition import Definition, Limits
from orchestrator.sweep.events import Ended, Launched, entry_of
from orchestrator.sweep.space import Values, choice
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import Trial, TrialState
from orchestrator.types import CheckpointRef, Progress, RunId
from tests.sweep.journal import Journal, Killed, conduct, define, searcher_of

SCHEDULERS = ("none", "asha", "hyperband", "pbt")
SEARCHES = ("random", "tpe")


def has(search: str) -> None:
    if search in ("tpe", "gp") and importlib.util.find_spec("optuna") is None:
        pytest.skip("Optuna is not installed")


def told(journal: Journal) -> dict[str, object]:
    """What was recorded, without the names of runs: those are drawn by their store."""
    return {
        entry_of(event).key: None if isinstance(event, Launched) else event
        for event in journal.events()
    }


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_killed_again_and_again_it_ends_as_if_left_alone(scheduler: str, search: str) -> None:
    has(search)
    ends_as_if_left_alone(
        define(scheduler=scheduler, search=search, order="fixed", trials=12, interval=2, seed=3)
    )


def test_a_gaussian_process_that_is_killed_again_and_again_suggests_the_same() -> None:
    has("gp")
    # Until ten trials have ended suggestions are by chance; the last five come from the process.
    ends_as_if_left_alone(
        define(scheduler="none", search="gp", order="fixed", trials=18, epochs=2, seed=3)
    )


def ends_as_if_left_alone(definition: Definition) -> None:
    """Conduct it undisturbed, and killed at one record after the other; all has to be the same."""
    calm = Journal()
    undisturbed = conduct(definition, StubRuns(), calm)
    chance = random.Random(1)
    journal, num_kills = Journal(), 0
    runs = StubRuns(pace=0.6, seed=9, looks_to_leave=1)  # and every run has another speed

    def fate() -> int:
        return chance.choices((0, 1, 2), (1, 1, 10))[0]

    journal.dies_in = fate
    conductor = None
    while conductor is None:
        try:
            conductor = conduct(definition, runs, journal)
        except Killed:
            num_kills += 1
    assert num_kills > 5
    assert told(journal) == told(calm)
    assert conductor.rungs == undisturbed.rungs
    assert list(journal.entries) == list(calm.entries)
    assert len(runs.launches) == sum(
        isinstance(event, Launched) for event in calm.events()
    )  # none twice, although some were submitted and not recorded


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_as_reports_arrive_no_trial_is_lost_and_every_epoch_is_there_once(scheduler: str) -> None:
    definition = define(scheduler=scheduler, trials=12, interval=2)
    journal, chance = Journal(), random.Random(2)
    runs = StubRuns(pace=0.4)
    journal.dies_in = lambda: chance.choices((0, 1, 2), (1, 1, 8))[0]
    conductor = None
    while conductor is None:
        with suppress(Killed):
            conductor = conduct(definition, runs, journal)
    trials = conductor.study.trials.values()
    assert len(trials) == 12
    for trial in trials:
        assert [row.epoch for row in trial.epochs] == list(range(1, len(trial.epochs) + 1))
        assert trial.state is TrialState.STOPPED or len(trial.epochs) == 9


def memory(settings: Values) -> int:
    batch = settings["batch"]
    assert isinstance(batch, int)
    return batch << 26  # 128 samples are 8 GiB


class Counted(StubRuns):
    """Runs of which it is known how many were on the cards at one time."""

    most = 0

    def submit(
        self, key: str, settings: Values, *, start: CheckpointRef | None, until: int | None
    ) -> RunId:
        found = StubRuns.submit(self, key, settings, start=start, until=until)
        self.most = max(self.most, self.num_on_cards)
        return found


@pytest.mark.parametrize("order", ["arrive", "fixed"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_that_has_yet_to_leave_its_card_takes_room(scheduler: str, order: str) -> None:
    definition = define(
        scheduler=scheduler, order=order, trials=14, max_concurrent=3, interval=2, seed=5
    )
    slow, fast = Counted(looks_to_leave=3), Counted()
    journals = Journal(), Journal()
    for runs, journal in zip((slow, fast), journals, strict=True):
        conductor = conduct(definition, runs, journal)
        assert len(conductor.study.trials) == 14
        assert runs.most <= 3
    if order == "fixed":  # how long runs take to leave decides nothing
        assert told(journals[0]) == told(journals[1])
        assert list(journals[0].entries) == list(journals[1].entries)


def test_what_does_not_fit_is_never_launched_and_does_not_count_as_a_trial() -> None:
    runs = StubRuns(need=memory, capacity_bytes=4 << 30)
    conductor = conduct(define(trials=20), runs, Journal())
    states = [trial.state for trial in conductor.study.trials.values()]
    assert states.count(TrialState.REFUSED) > 0
    assert len(runs.launches) == 20
    assert all(memory(settings) <= 4 << 30 for settings in runs.launches)


def test_a_space_of_which_nothing_fits_is_said() -> None:
    with pytest.raises(PlanError) as caught:
        conduct(define(), StubRuns(need=memory, capacity_bytes=1 << 29), Journal())
    assert caught.value.code == "E2030"


def test_a_metric_that_is_not_reported_is_said_once_and_trials_are_kept() -> None:
    said: list[str] = []
    conductor = conduct(define(metrics=("map",), trials=3), StubRuns(), Journal(), said.append)
    assert len(said) == 1
    assert "does not report map" in said[0]
    assert "score" in said[0]
    assert all(t.state is TrialState.FINISHED for t in conductor.study.trials.values())


def test_a_slow_trial_is_infeasible_and_its_run_is_ended() -> None:
    definition = define(limits=Limits(seconds_per_epoch=0.5), trials=2)
    conductor = conduct(definition, StubRuns(), Journal())
    for trial in conductor.study.trials.values():
        assert trial.state is TrialState.INFEASIBLE
        assert len(trial.epochs) == 1
        assert trial.violations == {"seconds_per_epoch": 1.0}


def test_a_trial_that_takes_too_much_energy_is_infeasible() -> None:
    said: list[str] = []
    decider = Decider(define(limits=Limits(energy=0.05)), said.append)
    trial = Trial(number=1, state=TrialState.ACTIVE, values={}, settings={})
    row = Progress(epoch=1, epochs=9, metrics={"score": 0.5}, seconds=1.0, num_images=1)
    _, end = decider.decide(trial, row, 0.0, watts=360.0)  # 0.1 Wh
    assert isinstance(end, Ended)
    assert end.state is TrialState.INFEASIBLE
    assert "360 W" in end.why
    assert len(decider.decide(trial, row, 0.0, watts=None)) == 1
    assert "not held" in said[0]


def test_a_population_clones_the_best_and_moves_on_from_its_checkpoint() -> None:
    definition = define(scheduler="pbt", trials=8, interval=3, max_concurrent=8)
    conductor = conduct(definition, StubRuns(), Journal())
    trials = conductor.study.trials.values()
    cloned = [trial for trial in trials if trial.donors]
    assert len(cloned) >= 2
    for trial in trials:
        assert [row.epoch for row in trial.epochs] == list(range(1, 10))
        assert len(trial.runs) == 3


def test_a_clone_never_moves_to_what_does_not_fit() -> None:
    runs = StubRuns(need=memory, capacity_bytes=4 << 30)
    definition = define(scheduler="pbt", trials=8, interval=1, max_concurrent=8, seed=5)
    conduct(definition, runs, Journal())
    assert len(runs.launches) == 8 * 9
    assert all(memory(settings) <= 4 << 30 for settings in runs.launches)


def test_a_grid_ends_when_every_combination_was_tried() -> None:
    space = {"batch": choice([16, 32]), "lr0": choice([0.1, 0.01])}
    runs = StubRuns()
    conduct(define(space=space, search="grid", trials=99), runs, Journal())
    assert len(runs.launches) == 4


def test_a_sweep_that_is_stopped_goes_on_with_the_same_runs() -> None:
    definition, journal, runs = define(trials=6), Journal(), StubRuns()
    first = Conductor(definition, searcher_of(definition), runs, journal, lambda: 0.0)
    for _ in range(4):
        first.advance()
    first.stop()
    assert first.is_done
    conductor = conduct(definition, runs, journal)
    assert len(runs.launches) == 6
    assert len(conductor.study.trials) == 6
