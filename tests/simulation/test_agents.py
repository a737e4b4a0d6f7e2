"""Agents learn step times by a law, and go no further than twice what was tried."""

from pathlib import Path

import pytest

from orchestrator.simulation.agents import StepLaw
from orchestrator.simulation.pollux import Application, Moments, Shape
from orchestrator.simulation.pollux_files import read_applications
from tests.simulation.tables import write_tables

MOMENTS = Moments(sqr=0.5, var=3.0)


@pytest.fixture
def bert(tmp_path: Path) -> Application:
    return read_applications(write_tables(tmp_path))["bert"]


def try_(law: StepLaw, shape: Shape, local: int) -> None:
    took = law.app.step_time(shape, local)
    assert took is not None
    law.tried(shape, local, took)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (1, 2), (2, 4)])
def test_times_that_are_linear_are_found_from_a_few(bert: Application, shape: Shape) -> None:
    law = StepLaw(bert)
    for tried, local in (((2,), 4), ((4,), 16), ((1, 1), 8), ((4, 4), 8)):
        try_(law, tried, local)
    assert law.rate(shape, MOMENTS) == pytest.approx(bert.best_batch(shape, MOMENTS)[1])


def test_until_other_widths_were_tried_synchronization_costs_what_is_known_of_it(
    bert: Application,
) -> None:
    law = StepLaw(bert)
    assert law.rate((1,), MOMENTS) == 0.0, "nothing was tried"
    try_(law, (1,), 16)
    free = law.rate((4,), MOMENTS)
    try_(law, (4,), 16)
    assert law.rate((4,), MOMENTS) < free
    assert law.rate((2,), MOMENTS) < bert.best_batch((2,), MOMENTS)[1], "as with four"


def test_a_job_may_have_twice_what_was_tried(bert: Application) -> None:
    law = StepLaw(bert)
    assert law.most == 1
    for shape in ((2,), (1,)):
        try_(law, shape, 8)
        assert law.most == 4


def test_what_was_tried_before_teaches_nothing_new(bert: Application) -> None:
    law = StepLaw(bert)
    for _ in range(2):
        try_(law, (2,), 8)
        assert law.version == 1
