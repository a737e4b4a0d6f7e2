"""Forecasts of when runs end, how they are scored, and backfill by them."""

import pytest

from orchestrator.messages import GangFinished, ProgressReported
from orchestrator.schedule.forecast import Forecast
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.types import CheckpointRef, Progress, RunId, RunSpec
from tests.schedule.test_scheduler import LARGE, Desk
from tests.strategies import make_spec


def forecaster() -> tuple[Desk, Scheduler]:
    desk = Desk(Scheduler(hold_after_seconds=600.0))
    desk.node("n", LARGE, LARGE)
    return desk, desk.scheduler


def epochs(desk: Desk, name: str, num: int, seconds: float, *, best: bool = True) -> None:
    """Let a run complete so many epochs."""
    for _ in range(num):
        desk.world.now += seconds
        done = desk.status(name).epoch + 1
        attempt = desk.attempt(name)
        desk.world.tell(
            ProgressReported(
                at=desk.world.now,
                attempt=attempt,
                progress=Progress(
                    epoch=done,
                    epochs=desk.status(name).epochs,
                    metrics={},
                    seconds=seconds,
                    num_images=8,
                ),
                checkpoint=CheckpointRef(
                    attempt=attempt, epoch=done, path="", sha256="", num_bytes=1, is_best=best
                ),
            )
        )


def begin(desk: Desk, *specs: RunSpec) -> None:
    desk.submit(*specs)
    desk.up(*(spec.run_id for spec in specs))


def test_nothing_is_told_of_a_run_of_an_unknown_kind() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("r", epochs=10))
    assert scheduler.forecast(RunId("r")) is None


def test_what_is_left_is_epochs_times_their_seconds() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("r", epochs=10))
    epochs(desk, "r", 4, 30.0)
    left = scheduler.forecast(RunId("r"))
    assert left is not None
    assert left.expected == pytest.approx(6 * 30.0)
    assert left.least <= 6 * 30.0 <= left.most


def test_patience_makes_an_early_end_more_likely_with_every_epoch_without_a_best() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("r", epochs=100, patience=10))
    told: list[Forecast] = []
    for _ in range(9):
        epochs(desk, "r", 1, 30.0, best=not told)
        left = scheduler.forecast(RunId("r"))
        assert left is not None
        told.append(left)
    assert told[0].expected > 90 * 30.0
    assert [left.expected for left in told] == sorted((x.expected for x in told), reverse=True)
    assert told[-1].least <= 2 * 30.0
    assert told[-1].expected < 30 * 30.0
    assert told[-1].most > 91 * 30.0


def test_a_waiting_run_is_forecast_by_runs_like_it() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("a", epochs=10), make_spec("b", epochs=10))
    desk.submit(make_spec("c", epochs=20))
    epochs(desk, "a", 3, 50.0)
    left = scheduler.forecast(RunId("c"))
    assert left is not None
    assert left.expected == pytest.approx(20 * 50.0, rel=0.05)


def test_forecasts_are_scored_when_the_run_has_ended() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("r", epochs=8))
    epochs(desk, "r", 8, 30.0)
    desk.world.tell(GangFinished(at=desk.world.now, attempt=desk.attempt("r")))
    assert scheduler.score.num == 3
    assert scheduler.score.mean_error == pytest.approx(0.0, abs=1e-6)
    assert scheduler.score.num_inside == 3


def test_a_run_that_slows_down_shows_in_the_score() -> None:
    desk, scheduler = forecaster()
    begin(desk, make_spec("r", epochs=8))
    epochs(desk, "r", 2, 30.0)
    epochs(desk, "r", 6, 60.0)
    desk.finish("r")
    assert scheduler.score.mean_error is not None
    assert scheduler.score.mean_error > 0.1
    assert scheduler.score.num_inside < 3


def test_a_short_run_passes_a_gang_that_waits_where_it_delays_nobody() -> None:
    desk, _ = forecaster()
    begin(desk, make_spec("long", epochs=100), make_spec("short", epochs=3))
    epochs(desk, "long", 2, 100.0)
    epochs(desk, "short", 2, 10.0)
    desk.submit(make_spec("wide", num_gpus=2, epochs=5))
    desk.pass_time(700.0)
    desk.submit(make_spec("after", epochs=1), make_spec("slow", epochs=500))
    epochs(desk, "short", 1, 10.0)
    desk.finish("short")  # a card is free, and kept for the gang until `long` has ended
    assert desk.running(["wide", "after", "slow"]) == ["after"]


def test_room_kept_for_a_gang_is_closed_to_runs_that_nothing_is_known_of() -> None:
    desk, _ = forecaster()
    begin(desk, make_spec("long", epochs=100), make_spec("short", epochs=3))
    desk.submit(make_spec("wide", num_gpus=2, epochs=5))
    desk.pass_time(700.0)
    desk.submit(make_spec("after", epochs=1))
    desk.finish("short")
    assert desk.running(["wide", "after"]) == []
