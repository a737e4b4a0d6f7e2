"""Jobs of a list through the scheduler: with less knowledge they end later, and all of them end."""

import statistics
from pathlib import Path

import pytest

from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.driven import Driven, Terms, drive_jobs
from orchestrator.simulation.pollux_files import read_applications, read_submissions
from orchestrator.simulation.rounds import Machine
from orchestrator.simulation.sized import Freedom
from orchestrator.types import Seconds
from tests.simulation.tables import REAL, needs_real_tables, write_tables


def outcomes(folder: Path, key: tuple[str, str], policy: ShortestFlow, terms: Terms, nodes: int
             ) -> tuple[Driven, ...]:  # fmt: skip
    apps, lists = read_applications(folder), read_submissions(folder)
    machine = Machine(num_nodes=nodes, gpus_per_node=4)
    return drive_jobs(lists[key], apps, policy, machine, terms)[0]


@pytest.mark.parametrize("freedom", list(Freedom))
@pytest.mark.parametrize("after", [None, 30.0])
def test_where_nothing_is_known_all_end_and_the_same_way_twice(
    tmp_path: Path, freedom: Freedom, after: Seconds | None
) -> None:
    folder = write_tables(tmp_path)
    terms = Terms(
        freedom=freedom,
        is_speed_known=False,
        forecast_error=None,
        keeps_unfinished_epochs=False,
        measured_after=after,
    )
    once, again = (outcomes(folder, ("small", "1"), ShortestFlow(), terms, 2) for _ in range(2))
    assert once == again
    assert len(once) == 4
    assert all(job.completion_s > 0 and job.num_starts >= 1 for job in once)


@needs_real_tables
@pytest.mark.slow
@pytest.mark.parametrize(
    ("freedom", "most"), [(Freedom.ELASTIC, 0.65 * 4087.1), (Freedom.ADAPTIVE, 0.95 * 2088.8)]
)
def test_where_nothing_is_known_a_real_list_still_ends_sooner_than_published(
    freedom: Freedom, most: Seconds
) -> None:
    terms = Terms(
        freedom=freedom, is_speed_known=False, forecast_error=None, keeps_unfinished_epochs=False
    )
    jobs = outcomes(REAL, ("workloads", "1"), ShortestFlow(), terms, 16)
    assert statistics.fmean(job.completion_s for job in jobs) < most
