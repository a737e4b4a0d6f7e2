from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.simulation.pollux import Application
from orchestrator.simulation.pollux_files import (
    Submission,
    read_applications,
    read_published,
    read_submissions,
)
from orchestrator.simulation.published import Optimus, Tiresias
from orchestrator.simulation.rounds import Gpus, Job, Machine, Policy, shape_of, simulate
from orchestrator.types import Seconds
from tests.simulation.tables import REAL, needs_real_tables, write_tables

SMALL = Machine(num_nodes=2, gpus_per_node=4)


@pytest.fixture
def bert(tmp_path: Path) -> Application:
    return read_applications(write_tables(tmp_path))["bert"]


def job_of(app: Application, name: str = "one", *, submit_s: Seconds = 0.0, num_gpus: int = 1,
           batch: int | None = 16) -> Job:  # fmt: skip
    row = Submission(name=name, submit_s=submit_s, app="bert", num_gpus=num_gpus, batch=batch or 16)
    return Job(row, app, batch)


class Alone:
    """Puts every job on the same GPUs, whenever there is only one."""

    def __init__(self, *turns: Gpus) -> None:
        self.turns = turns
        self.asked: list[Seconds] = []

    def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
        del machine
        self.asked.append(now)
        gpus = self.turns[min(len(self.asked), len(self.turns)) - 1]
        return {job.row.name: gpus for job in jobs}


def test_a_job_waits_for_the_round_stands_still_for_30_s_and_then_trains(bert: Application) -> None:
    (job,) = simulate([job_of(bert, submit_s=61.0)], Alone((0,)), SMALL)
    seconds = [
        (end - begin) / bert.rate((1,), 16, epoch)
        for epoch, (begin, end) in enumerate(((0.0, 1000.0), (1000.0, 2016.0)))
    ]
    assert job.ended_at == 120.0 + 30.0 + sum(map(round, seconds))
    assert job.completion_s == job.ended_at - 61.0
    assert job.num_starts == 1
    assert job.attained_gpu_s == job.ended_at - 120.0


def test_other_gpus_cost_a_restart_and_the_same_ones_do_not(bert: Application) -> None:
    (still,) = simulate([job_of(bert)], Alone((0,)), SMALL)
    (moved,) = simulate([job_of(bert)], Alone((0,), (0,), (1,)), SMALL)
    assert (still.num_starts, moved.num_starts) == (1, 2)
    assert moved.completion_s == pytest.approx(still.completion_s + 30.0, abs=1.0)


def test_a_job_without_gpus_keeps_its_progress(bert: Application) -> None:
    (still,) = simulate([job_of(bert)], Alone((0,)), SMALL)
    (paused,) = simulate([job_of(bert)], Alone((0,), (), (), (0,)), SMALL)
    assert paused.completion_s == pytest.approx(still.completion_s + 120.0 + 30.0, abs=1.0)


def test_a_job_of_free_batch_starts_small_then_takes_the_best_for_what_it_saw(
    bert: Application,
) -> None:
    job = job_of(bert, batch=None)
    assert job.asked_batch((4,)) == 16
    job.move((0, 0, 0, 0), 30.0)
    job.train(0.0, 60.0)
    assert job.moments is not None
    assert job.asked_batch((4,)) == bert.best_batch((4,), job.moments)[0] > 16
    assert job.widest == 4
    (free,) = simulate([job_of(bert, batch=None)], Alone((0, 0, 0, 0)), SMALL)
    (held,) = simulate([job_of(bert, batch=16)], Alone((0, 0, 0, 0)), SMALL)
    assert free.completion_s < held.completion_s


def test_an_overbooked_node_is_a_bug_of_the_policy(bert: Application) -> None:
    jobs = [job_of(bert, name) for name in ("a", "b")]
    with pytest.raises(AssertionError, match="overbooked"):
        simulate(jobs, Alone((0, 0, 0)), SMALL)


def test_shape_counts_neighbours() -> None:
    assert shape_of((3, 3, 1, 1, 1)) == (2, 3)
    assert shape_of(()) == ()


def test_tiresias_demotes_the_job_that_got_its_share_and_lets_the_next_go_first(
    bert: Application,
) -> None:
    def jobs() -> list[Job]:
        return [
            job_of(bert, "first", num_gpus=8, batch=64),
            job_of(bert, "second", submit_s=70.0, num_gpus=8, batch=64),
        ]

    fifo = simulate(jobs(), Tiresias(), SMALL)
    assert [job.num_starts for job in fifo] == [1, 1]
    assert fifo[0].completion_s < fifo[1].completion_s
    early = simulate(jobs(), Tiresias(queue_gpu_s=8 * 120.0), SMALL)
    assert [job.num_starts for job in early] == [2, 2]  # each made room when it was demoted
    ends = [job.row.submit_s + job.completion_s for job in early]
    assert ends[0] < ends[1]  # of those demoted, who was demoted first goes first


def test_optimus_gives_the_longest_job_the_most_gpus(bert: Application) -> None:
    jobs = [job_of(bert, name, batch=64) for name in ("long", "short")]
    jobs[1].epoch = 1
    jobs[1].progress = bert.epoch_ends[0]
    placed = Optimus().place(60.0, jobs, SMALL)
    assert len(placed["long"]) > len(placed["short"]) >= 1
    assert sum(map(len, placed.values())) <= SMALL.num_gpus


@pytest.mark.parametrize("policy", [Tiresias, Optimus])
def test_the_same_jobs_end_the_same_every_time(policy: type[Policy], tmp_path: Path) -> None:
    folder = write_tables(tmp_path)
    apps = read_applications(folder)

    def ends() -> list[Seconds]:
        rows = read_submissions(folder)["small", "1"]
        jobs = [Job(row, apps[row.app], row.batch) for row in rows]
        return [job.completion_s for job in simulate(jobs, policy(), SMALL)]

    first = ends()
    assert first == ends()
    assert all(each > 60.0 for each in first)


@pytest.mark.slow
@needs_real_tables
@pytest.mark.parametrize("load", ["1.0", "2.0"])
@pytest.mark.parametrize("workload", ["1", "2", "3", "4"])
@pytest.mark.parametrize(("run", "policy"), [("tiresias", Tiresias), ("optimus", Optimus)])
def test_the_published_completion_times_come_out_again(
    run: str, policy: type[Policy], workload: str, load: str
) -> None:
    apps = read_applications(REAL)
    rows = read_submissions(REAL)["workloads" if load == "1.0" else "workloads-2.0", workload]
    told = read_published(REAL)[f"{run}-{load}", workload]
    jobs = [Job(row, apps[row.app], row.batch) for row in rows]
    times = sorted(job.completion_s for job in simulate(jobs, policy(), Machine()))
    assert len(times) == told.num_jobs
    assert sum(times) / len(times) == pytest.approx(told.average_s, abs=0.051)  # as it is rounded
    assert times[len(times) // 2] == told.p50_s
    assert times[int(0.99 * len(times))] == told.p99_s
