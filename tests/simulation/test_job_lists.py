"""Job lists are recognised by their columns; what cannot be read is counted and named."""

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError, DataError, NotFoundError
from orchestrator.simulation.job_lists import read_jobs
from orchestrator.simulation.jobs import num_epochs, run_of

TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "traces"
PLAIN = "submit_s,duration_s,gpus,queue,priority,memory_gib\n"


def listed(folder: Path, text: str, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_of_ones_own_has_three_columns_and_may_have_more(tmp_path: Path) -> None:
    path = listed(tmp_path, PLAIN + "1000,600,2,vision,70,7.5\n900,60,1,,,\n")
    first, second = read_jobs(path).jobs
    assert (first.submit_s, second.submit_s) == (0.0, 100.0)  # in order, from the first on
    assert (first.queue, first.priority, first.memory_gib) == ("default", 50, None)
    assert (second.queue, second.priority, second.memory_gib) == ("vision", 70, 7.5)
    assert (second.num_gpus, second.duration_s) == (2, 600.0)
    least = read_jobs(listed(tmp_path, "\ufeffgpus,submit_s,duration_s\n4, 0 ,12.5\n")).jobs
    assert [(job.num_gpus, job.duration_s) for job in least] == [(4, 12.5)]


def test_long_jobs_have_epochs_of_ten_minutes_and_short_ones_have_one(tmp_path: Path) -> None:
    assert [num_epochs(s) for s in (1.0, 899.0, 901.0, 6000.0, 1e9)] == [1, 1, 2, 10, 100]
    (job,) = read_jobs(listed(tmp_path, PLAIN + "0,6000,12,a,,3\n")).jobs
    spec = run_of(job)
    assert spec.settings.epochs == 10
    assert spec.settings.options["epoch_seconds"] == 600.0
    assert spec.effective_batch % 12 == 0
    assert spec.memory_bytes == 3 * 2**30


def test_columns_of_published_lists_are_known(tmp_path: Path) -> None:
    philly = listed(tmp_path, "submit_s,duration_s,num_gpus,vc\n5,100,1,7f04ca\n", "a.csv")
    (job,) = read_jobs(philly).jobs
    assert (job.queue, job.kind) == ("7f04ca", "7f04ca")
    text = "trace,model,batch_size,total_steps,num_gpus,batch_mode,duration_s,submit_s\n"
    text += "one,LM,10,134583,1,gns,1418,0\ntwo,LM,20,9,2,gns,7,3\n"
    shockwave = listed(tmp_path, text, "b.csv")
    (job,) = read_jobs(shockwave, part="two").jobs
    assert (job.kind, job.num_gpus, job.duration_s) == ("LM 20", 2, 7.0)
    with pytest.raises(ConfigError, match="several job lists") as caught:
        read_jobs(shockwave)
    assert "one, two" in caught.value.why[0]
    with pytest.raises(ConfigError, match="no part 'six'"):
        read_jobs(shockwave, part="six")


def test_steps_become_seconds_by_the_measured_speeds_beside_the_list(tmp_path: Path) -> None:
    jobs = "vc,model,batch_size,total_steps,submit_s,num_gpus\nq,LM,5,1000,0,2\nq,LM,5,10,9,4\n"
    path = listed(tmp_path, jobs)
    with pytest.raises(NotFoundError, match=r"throughput_isolated\.csv is not there"):
        read_jobs(path)
    speeds = "gpu,consolidated,model,batch_size,num_gpus,steps_per_s,samples_per_s\n"
    speeds += "v100,1,LM,5,2,4.0,20\nv100,0,LM,5,2,1.0,5\nk80,1,LM,5,4,9.0,45\n"
    listed(tmp_path, speeds, "throughput_isolated.csv")
    found = read_jobs(path, skip_broken=True)
    assert [(job.duration_s, job.queue) for job in found.jobs] == [(250.0, "q")]
    assert found.num_broken == 1
    with pytest.raises(DataError, match="1 of 2 rows") as caught:
        read_jobs(path)
    assert caught.value.why == ("line 3: no speed was measured for LM 5 on 4 v100",)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("soon,60,1", "submit_s is 'soon', not a number"),
        ("0,-5,1", "duration_s is -5"),
        ("0,nan,1", "duration_s is nan"),
        ("0,0,1", "duration_s is 0"),
        ("inf,60,1", "submit_s is inf"),
        ("0,60,1.5", "gpus is 1.5, not a whole number"),
        ("0,60,0", "gpus is 0, not a whole number"),
        ("0,60,", "gpus is '', not a number"),
        ("0,60", "gpus is '', not a number"),
        ("0,60,1,a,500000,1", "priority is 500000, not a whole number from -1000 to 1000"),
        ("0,60,1,a,50,-1", "memory_gib is -1"),
        ("0,60,1,a\x07b,50,1", "queue is longer than 100 characters, or not readable"),
    ],
)
def test_a_broken_row_is_counted_and_named(tmp_path: Path, row: str, why: str) -> None:
    full = ",".join([*row.split(","), *([""] * (5 - row.count(",")))]) if row != "0,60" else row
    path = listed(tmp_path, f"{PLAIN}0,60,1,,,\n{full}\n")
    with pytest.raises(DataError, match="1 of 2 rows cannot be read") as caught:
        read_jobs(path)
    assert caught.value.why[0].startswith(f"line 3: {why}")
    assert caught.value.exit_code == 2
    found = read_jobs(path, skip_broken=True)
    assert (len(found.jobs), found.num_broken) == (1, 1)
    assert "1 of 2 rows were left out" in found.notes[0]


def test_many_broken_rows_name_the_first_and_count_the_rest(tmp_path: Path) -> None:
    path = listed(tmp_path, "submit_s,duration_s,gpus\n" + "x,1,1\n" * 1_500)
    with pytest.raises(DataError, match="1,500 of 1,500 rows") as caught:
        read_jobs(path, skip_broken=True)  # nothing would be left
    assert len(caught.value.why) == 4
    assert caught.value.why[-1] == "and 1,497 more"


def test_two_jobs_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    path = listed(tmp_path, "name,submit_s,duration_s,gpus\na,0,1,1\na,1,1,1\n")
    with pytest.raises(DataError, match="1 of 2") as caught:
        read_jobs(path)
    assert "a second job is named 'a'" in caught.value.why[0]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no column submit_s"),
        (b"submit_s,gpus\n0,1\n", "no column duration_s"),
        (b"submit_s,duration_s,gpus\n", "has no rows"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
        (b'submit_s,duration_s,gpus\n0,"' + b"9" * 200_000 + b'",1\n', "cannot be read"),
    ],
)
def test_what_is_no_job_list_is_told_as_such(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        read_jobs(path)


def test_a_file_that_is_not_there_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_jobs(tmp_path / "none.csv")
    with pytest.raises(NotFoundError, match="apps is not there"):
        read_jobs(tmp_path)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the published traces are not here")
@pytest.mark.parametrize(
    ("path", "part", "num_jobs", "gpu_hours"),
    [  # the sums are those of the files' own columns, by awk
        ("philly/jobs.csv", None, 82_247, 978_075),
        ("shockwave/jobs.csv", "120_jobs", 120, 197.6),
        ("pollux", "workloads/1", 160, None),
    ],
)
def test_the_published_traces_are_read_whole(
    path: str, part: str | None, num_jobs: int, gpu_hours: float | None
) -> None:
    jobs = read_jobs(TRACES / path, part=part).jobs
    assert len(jobs) == num_jobs
    total = sum(job.duration_s * job.num_gpus for job in jobs) / 3600
    assert total > 0 if gpu_hours is None else total == pytest.approx(gpu_hours, rel=1e-3)
