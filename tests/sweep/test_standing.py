"""Where a sweep stands: every trial is counted once, and its end is foretold."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.standing import Scores, seconds_left, standing_of
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import SweepState, Trial, TrialEpoch, TrialState
from tests.sweep.journal import define
from tests.sweep.stored import make_record


def trial(number: int, state: TrialState, begin: float, end: float | None, score: float) -> Trial:
    row = TrialEpoch(epoch=1, metrics={"score": score}, seconds=1.0)
    return Trial(
        number=number, state=state, values={}, settings={}, at=begin, ended_at=end, epochs=(row,)
    )


def test_every_suggestion_is_counted_once() -> None:
    def need(settings: object) -> int:
        assert isinstance(settings, dict)
        return 1 << 40 if settings["batch"] == 128 else 0

    record = make_record(StubRuns(need=need), scheduler="asha")
    told = standing_of(record, 0.0)
    assert told.started == told.trials == 24
    assert told.refused > 0
    assert told.started + told.refused == len(record.trials)
    assert told.stopped > 0
    assert told.share_refused == pytest.approx(told.refused / len(record.trials))
    assert told.best == record.best
    assert told.left is None  # it has ended


def test_scores_are_worked_out_again_when_a_trial_has_changed() -> None:
    definition = define(trials=2)
    scores = Scores()
    for score in (0.3, 0.7):
        record = SweepRecord(
            definition=definition,
            state=SweepState.RUNNING,
            at=0.0,
            trials=(trial(1, TrialState.ACTIVE, 0.0, None, score),),
        )
        assert standing_of(record, 0.0, scores).metrics == (score,)


def test_the_end_is_foretold_from_the_trials_that_have_ended() -> None:
    definition = define(trials=10, max_concurrent=2)
    ended = [trial(n, TrialState.FINISHED, 0.0, 10.0, 0.5) for n in (1, 2)]
    active = [trial(n, TrialState.ACTIVE, 10.0, None, 0.5) for n in (3, 4)]
    assert seconds_left(definition, tuple(active), 12.0) is None
    # Two have 8 s left each, and six of 10 s are to come, two at a time.
    assert seconds_left(definition, (*ended, *active), 12.0) == pytest.approx(38.0)
    # A trial that takes longer than the others is not foretold to have ended before now.
    assert seconds_left(define(trials=3), (*ended, active[0]), 99.0) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), max_size=30))
def test_the_front_is_who_no_other_one_beats(scores: list[tuple[int, int, int]]) -> None:
    names = ("a", "b", "c")
    modes = ("max", "min", "max")
    trials = tuple(
        replace(
            trial(number, TrialState.FINISHED, 0.0, 1.0, 0.0),
            epochs=(
                TrialEpoch(
                    epoch=1, metrics=dict(zip(names, map(float, each), strict=True)), seconds=1.0
                ),
            ),
        )
        for number, each in enumerate(scores, 1)
    )
    record = SweepRecord(
        definition=define(metrics=names, modes=modes),
        state=SweepState.FINISHED,
        at=0.0,
        trials=trials,
    )
    signed = [(a, -b, c) for a, b, c in scores]
    unbeaten = [
        number
        for number, own in enumerate(signed, 1)
        if not any(
            other != own and all(x >= y for x, y in zip(other, own, strict=True))
            for other in signed
        )
    ]
    assert [each.number for each in record.front] == unbeaten
