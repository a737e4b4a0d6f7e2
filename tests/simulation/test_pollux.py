from pathlib import Path

import pytest

from orchestrator.errors import DataError, NotFoundError, OrchestratorError
from orchestrator.simulation.pollux import Application, Moments, Split, packed_shape
from orchestrator.simulation.pollux_files import (
    read_applications,
    read_published,
    read_submissions,
)
from tests.simulation.tables import step_seconds, write_tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


@pytest.fixture
def bert(folder: Path) -> Application:
    return read_applications(folder)["bert"]


def test_limits_and_epoch_ends_come_from_the_tables(bert: Application) -> None:
    assert (bert.least_batch, bert.most_batch) == (16, 64)
    assert (bert.least_local, bert.most_local) == (4, 16)
    assert bert.epoch_ends == (1000.0, 2016.0)  # the smallest progress over the batches
    assert bert.most_gpus(64) == 16


@pytest.mark.parametrize(
    ("batch", "num_gpus", "split"),
    [
        (16, 1, Split(16, 0)),
        (32, 1, Split(16, 1)),  # beyond the starting batch one GPU takes two passes
        (24, 1, Split(12, 1)),
        (64, 1, Split(16, 3)),
        (64, 4, Split(16, 0)),
        (64, 3, Split(10, 1)),  # 22 a GPU, in two passes of 11, would be more than 64 in all
        (20, 3, Split(7, 0)),
    ],
)
def test_a_batch_is_cut_to_what_a_gpu_may_hold(
    bert: Application, batch: int, num_gpus: int, split: Split
) -> None:
    found = bert.split(batch, num_gpus)
    assert found == split
    assert found.local_batch * (found.extra_passes + 1) * num_gpus <= bert.most_batch


@pytest.mark.parametrize(("shape", "local"), [((1,), 4), ((2, 1), 8), ((4, 2), 10), ((4, 3), 13)])
def test_a_measured_placement_is_linear_in_the_local_batch_and_blind_to_the_order_of_nodes(
    bert: Application, shape: tuple[int, ...], local: int
) -> None:
    found = bert.step_time(shape, local)
    assert found == pytest.approx(step_seconds(len(shape), sum(shape), local))
    assert bert.step_time(shape[::-1], local) == found


def test_an_unmeasured_placement_lies_between_measured_ones(bert: Application) -> None:
    found = bert.step_time((4, 4, 4, 1), 10)
    assert found == pytest.approx(step_seconds(4, 13, 10))
    assert bert.step_time((4,) * 16, 8) == pytest.approx(step_seconds(16, 64, 8))


@pytest.mark.parametrize(("shape", "local"), [((1,), 3), ((4,), 17), ((4, 4, 4), 17)])
def test_outside_of_the_measurements_there_is_no_step_time(
    bert: Application, shape: tuple[int, ...], local: int
) -> None:
    assert bert.step_time(shape, local) is None


def test_gain_is_one_at_the_starting_batch_and_never_above_the_scale(bert: Application) -> None:
    moments = bert.moments(32, 0)
    assert bert.gain(16, moments) == 1.0
    gains = [bert.gain(batch, moments) for batch in range(16, 65)]
    assert gains == sorted(gains)
    assert all(gain <= batch / 16 for batch, gain in enumerate(gains, start=16))
    assert bert.gain(64, Moments(sqr=1.0, var=3.0)) == pytest.approx(4.0 / 1.75)


def test_statistics_are_linear_between_measured_batches(bert: Application) -> None:
    assert bert.moments(16, 1).var == pytest.approx(3.0)
    assert bert.moments(64, 1).var == pytest.approx(6.0)
    assert bert.moments(40, 1).var == pytest.approx(4.5)
    assert bert.iterations(40, 1) == pytest.approx(1400.0)


def test_rate_is_gain_over_the_time_of_all_passes(bert: Application) -> None:
    step, sync = step_seconds(1, 1, 16)
    gain = bert.gain(32, bert.moments(32, 0))
    assert bert.rate((1,), 32, 0) == pytest.approx(gain / (step + (step - sync)))
    assert bert.rate((4, 4, 4), 16, 0) == 0.0  # less than the least local batch each


def test_the_best_batch_beats_every_other(bert: Application) -> None:
    moments = bert.moments(16, 0)
    for shape in ((1,), (4,), (4, 4)):
        batch, rate = bert.best_batch(shape, moments)
        others = range(max(16, 4 * sum(shape)), 65, sum(shape))
        told = [bert.rate(shape, each, 0) for each in others]
        assert bert.least_batch <= batch <= bert.most_batch
        assert rate >= 0.99 * max(told)
    assert bert.best_batch((4, 4, 4, 4, 4), moments) == (16, 0.0)


def test_packed_is_on_the_fewest_nodes() -> None:
    assert packed_shape(11, 4) == (4, 4, 3)
    assert packed_shape(4, 4) == (4,)
    assert packed_shape(0, 4) == ()


def test_job_lists_and_published_results_are_read(folder: Path) -> None:
    jobs = read_submissions(folder)["small", "1"]
    assert [job.name for job in jobs] == ["bert-0", "bert-1", "bert-2", "bert-3"]
    assert (jobs[0].submit_s, jobs[0].num_gpus, jobs[0].batch) == (10.0, 2, 32)
    assert read_published(folder)["tiresias-1.0", "1"].average_s == 500.0


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("workloads.csv", "small,1,bert-1,70", "small,1,bert-1,soon", "line 3: could not convert"),
        ("workloads.csv", "80,bert,1,16", "80,gpt,1,16", "line 4: unknown application 'gpt'"),
        ("workloads.csv", "80,bert,1,16", "80,bert,0,16", "line 4: num_gpus is 0"),
        ("workloads.csv", ",batch_size", ",size", "line 2: no column 'batch_size'"),
        ("workloads.csv", "80,bert,1,16", "80,bert", "line 4: int() argument"),
        ("apps/bert/placements.csv", "\n24,4,", "\n20,4,", "placement '20'"),
        ("apps/bert/placements.csv", "\n1,4,0.18", "\n1,4,nan", "line 2: step_time is 'nan'"),
        ("apps/bert/placements.csv", "\n1,4,0.18", "\n1,4,-1", "line 2: step_time is '-1'"),
        ("apps/bert/scalability.csv", "\n6,6,4,", "\n6,x,4,", "line 2: invalid literal"),
        ("apps/bert/validation-16.csv", "1.0,3.0", "0.0,0.0", "both 0"),
        ("published_results.csv", "500.0", "", "line 2: could not convert"),
    ],
)
def test_bad_rows_are_counted_and_named(
    folder: Path, file: str, old: str, new: str, told: str
) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        _ = (read_applications(folder), read_submissions(folder), read_published(folder))
    assert " rows cannot be read" in caught.value.what
    assert told in " ".join(caught.value.why)
    assert caught.value.code == "E3402"
    assert caught.value.fix


def test_of_many_bad_rows_the_first_are_named_and_the_rest_counted(folder: Path) -> None:
    path = folder / "workloads.csv"
    path.write_text(path.read_text().replace("bert,", "gpt,") * 3)
    with pytest.raises(DataError) as caught:
        read_submissions(folder)
    assert "14 of 14 rows" in caught.value.what  # 12 jobs, and the header twice among them
    assert caught.value.why[-1] == "and 9 more"


@pytest.mark.parametrize(
    "file", ["workloads.csv", "published_results.csv", "apps/bert/placements.csv"]
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_missing_empty_or_binary_file_is_an_error_with_a_remedy(
    folder: Path, file: str, content: bytes | None
) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(OrchestratorError) as caught:
        _ = (read_applications(folder), read_submissions(folder), read_published(folder))
    assert isinstance(caught.value, NotFoundError if content is None else DataError)
    assert str(folder / file) in caught.value.what
    assert caught.value.fix


def test_a_folder_of_unknown_applications_or_too_few_epochs_is_refused(folder: Path) -> None:
    apps = folder / "apps"
    (apps / "bert").rename(apps / "cifar10")
    with pytest.raises(DataError, match="too few epochs"):
        read_applications(folder)
    (apps / "cifar10").rename(apps / "gpt")
    with pytest.raises(DataError, match="unknown applications") as caught:
        read_applications(folder)
    assert "gpt" in caught.value.why[0]
    with pytest.raises(NotFoundError):
        read_applications(folder / "nothing")


def test_progress_that_does_not_grow_is_refused(folder: Path) -> None:
    path = folder / "apps" / "bert" / "validation-16.csv"
    path.write_text(path.read_text().replace("2016.0", "900.0"))
    with pytest.raises(DataError, match="does not grow"):
        read_applications(folder)
