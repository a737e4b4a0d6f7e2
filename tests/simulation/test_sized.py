import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from orchestrator.schedule.widths import ShortestFlow
from orchestrator.simulation.packing import pack
from orchestrator.simulation.pollux import Application
from orchestrator.simulation.pollux_files import (
    Submission,
    read_applications,
    read_published,
    read_submissions,
)
from orchestrator.simulation.remaining import seconds_left, speeds_now
from orchestrator.simulation.report import figures_of
from orchestrator.simulation.rounds import Gpus, Job, Machine, shape_of, simulate
from orchestrator.simulation.sized import NCF_BATCH, Freedom, Sized, most_gpus
from orchestrator.types import Seconds
from tests.simulation.tables import REAL, ROOT, needs_real_tables, write_tables

SMALL = Machine(num_nodes=2, gpus_per_node=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


@pytest.fixture
def bert(folder: Path) -> Application:
    return read_applications(folder)["bert"]


def jobs_of(folder: Path, freedom: Freedom) -> list[Job]:
    apps = read_applications(folder)
    rows = read_submissions(folder)["small", "1"]
    return [Job(row, apps[row.app], None if freedom is Freedom.ADAPTIVE else row.batch)
            for row in rows]  # fmt: skip


def job_of(app: Application, name: str = "one", *, gpus: Gpus = (), batch: int | None = 64) -> Job:
    row = Submission(name=name, submit_s=0.0, app="bert", num_gpus=4, batch=batch or 16)
    return Job(row, app, batch, gpus=gpus)


def test_who_keeps_its_width_stays_and_others_fill_whole_nodes_then_the_tightest_gap(
    bert: Application,
) -> None:
    jobs = [
        job_of(bert, "stays", gpus=(1, 1, 1)),
        job_of(bert, "grows", gpus=(0,)),
        job_of(bert, "new"),
        job_of(bert, "stops", gpus=(2, 2)),
    ]
    machine = Machine(num_nodes=3, gpus_per_node=4)
    placed = pack({"stays": 3, "grows": 6, "new": 1}, jobs, machine, lambda _: False)
    assert placed["stays"] == (1, 1, 1)
    assert shape_of(placed["grows"]) == (4, 2)
    assert 1 not in placed["grows"]
    assert placed["new"] == (1,)
    assert "stops" not in placed


@pytest.mark.parametrize(
    ("is_worth", "others", "nodes"),
    [(True, (1,), 1), (False, (1,), 2), (True, (1, 1, 2, 2), 2)],
)
def test_a_job_on_too_many_nodes_moves_together_if_that_pays_and_there_is_room(
    bert: Application, is_worth: bool, others: Gpus, nodes: int
) -> None:
    machine = Machine(num_nodes=3, gpus_per_node=4)
    jobs = [job_of(bert, "spread", gpus=(0, 0, 0, 2)), job_of(bert, "zero", gpus=(0,))]
    jobs += [job_of(bert, f"other-{at}", gpus=(node,)) for at, node in enumerate(others)]
    widths = {job.row.name: len(job.gpus) for job in jobs}
    placed = pack(widths, jobs, machine, lambda _: is_worth)
    assert len(set(placed["spread"])) == nodes
    assert all(placed[job.row.name] == job.gpus for job in jobs[1:])


def test_what_is_left_shrinks_as_a_job_trains_and_is_what_it_then_takes(
    bert: Application,
) -> None:
    job = job_of(bert, gpus=(0, 0, 0, 0))
    before = seconds_left(job, 8, 4)
    assert before[0] > before[3]
    job.train(0.0, 60.0)
    after = seconds_left(job, 8, 4)
    assert after[3] == pytest.approx(before[3] - 60.0)
    now = 60.0
    while job.ended_at is None:
        job.train(now, 60.0)
        now += 60.0
    assert job.ended_at == pytest.approx(before[3], abs=2.0)  # ends of epochs are whole seconds


def test_an_unmeasured_width_takes_forever(bert: Application) -> None:
    left = seconds_left(job_of(bert, batch=16), 8, 4)
    assert [math.isfinite(each) for each in left] == [True] * 5 + [False] * 3
    assert speeds_now(job_of(bert, batch=16), 6, 4)[5] == 0.0


def test_a_job_that_has_seen_nothing_is_taken_to_scale(bert: Application) -> None:
    job = job_of(bert, batch=None)
    assert speeds_now(job, 3, 4) == [1.0, 2.0, 3.0]
    job.moments = bert.moments(16, 0)
    assert speeds_now(job, 3, 4)[0] == pytest.approx(bert.best_batch((1,), job.moments)[1])


def test_how_wide_a_job_may_be_follows_from_the_freedom(bert: Application) -> None:
    job = job_of(bert, batch=16)
    assert most_gpus(job, Freedom.RIGID, SMALL) == 4
    assert most_gpus(job, Freedom.ELASTIC, SMALL) == 4  # 4 samples each
    assert most_gpus(job_of(bert, batch=None), Freedom.ADAPTIVE, SMALL) == 8
    ncf = Application("ncf", bert.tables, 2)
    assert most_gpus(Job(job.row, ncf, NCF_BATCH), Freedom.ADAPTIVE, SMALL) == 1


@pytest.mark.parametrize("freedom", list(Freedom))
@pytest.mark.parametrize("forecast", [None, 1.0, 1.7])
def test_every_job_ends_and_rigid_ones_only_ever_have_their_own_width(
    folder: Path, freedom: Freedom, forecast: float | None
) -> None:
    jobs = jobs_of(folder, freedom)
    told = None if forecast is None else {job.row.name: forecast for job in jobs}
    sized = Sized(ShortestFlow(), freedom, told, is_exploring=freedom is Freedom.ADAPTIVE)
    seen: list[tuple[int, int]] = []

    class Watched:
        def place(self, now: Seconds, jobs: Sequence[Job], machine: Machine) -> Mapping[str, Gpus]:
            placed = sized.place(now, jobs, machine)
            seen.extend((len(placed.get(job.row.name, ())), job.row.num_gpus) for job in jobs)
            if freedom is Freedom.ADAPTIVE:
                bounds = {job.row.name: max(1, 2 * job.widest) for job in jobs}
                assert all(len(gpus) <= bounds[name] for name, gpus in placed.items())
            return placed

    ended = simulate(jobs, Watched(), SMALL)
    assert all(job.ended_at is not None for job in ended)
    if freedom is Freedom.RIGID:
        assert all(width in (0, own) for width, own in seen)
    figures = figures_of(ended, freedom, SMALL)
    assert 0 < figures.p50_s <= figures.p99_s <= figures.makespan_s
    assert figures.worst_unfairness >= figures.mean_unfairness > 0


def test_a_job_alone_is_as_fast_as_on_its_share_but_for_the_wait_of_a_round(
    bert: Application,
) -> None:
    (job,) = simulate([job_of(bert)], Sized(ShortestFlow(), Freedom.ELASTIC, {"one": 1.0}), SMALL)
    figures = figures_of([job], Freedom.ELASTIC, SMALL)
    alone = min(seconds_left(job_of(bert), 8, 4)) + 30.0
    assert figures.worst_unfairness == pytest.approx((alone + 60.0) / alone, abs=0.02)


def test_the_bench_refuses_a_folder_without_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench_policies", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(f"[E3401] {tmp_path}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@needs_real_tables
@pytest.mark.parametrize(
    ("freedom", "rival", "less"),
    [
        (Freedom.RIGID, "tiresias", 0.15),
        (Freedom.ELASTIC, "optimus", 0.40),
        (Freedom.ADAPTIVE, "pollux", 0.20),
    ],
)
def test_jobs_end_sooner_than_with_the_published_policy_of_the_same_freedom(
    freedom: Freedom, rival: str, less: float
) -> None:
    apps, lists, published = read_applications(REAL), read_submissions(REAL), read_published(REAL)
    ours = theirs = 0.0
    for workload in "1234":
        rows = lists["workloads", workload]
        batches = [NCF_BATCH if row.app == "ncf" else None if freedom is Freedom.ADAPTIVE
                   else row.batch for row in rows]  # fmt: skip
        jobs = [Job(row, apps[row.app], size) for row, size in zip(rows, batches, strict=True)]
        told = {row.name: 1.0 for row in rows}
        ended = simulate(jobs, Sized(ShortestFlow(), freedom, told), Machine())
        ours += figures_of(ended, freedom, Machine()).average_s
        theirs += published[f"{rival}-1.0", workload].average_s
    assert ours <= (1.0 - less) * theirs
