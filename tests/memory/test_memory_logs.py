"""The table of public training logs keeps its own rule of which rows count."""

import csv

import pytest

from jobs.memory_logs import AGAINST, TABLE, read_runs

ROWS = list(csv.DictReader(TABLE.read_text().splitlines()))


def test_rows_that_count_are_of_epoch_1_and_sparse() -> None:
    counted = [run for run in read_runs() if not run.left_out]
    assert len(counted) >= 20
    for run, row in zip(read_runs(), ROWS, strict=True):
        if not run.left_out:
            assert row["epoch_1"]
            assert run.workload.labels is not None
            assert run.workload.labels.mean <= 32


def test_every_other_row_says_what_is_against_it() -> None:
    assert {run.left_out for run in read_runs()} - {""} == set(AGAINST)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['card']}, {row['model']}")
def test_the_unit_is_that_of_the_release(row: dict[str, str]) -> None:
    release = tuple(int(part) for part in row["ultralytics"].split("."))
    assert row["unit"] == ("GB" if release <= (8, 3, 75) else "GiB")


def test_both_halves_have_rows_of_the_architecture_that_was_fitted() -> None:
    turing = [run for run in read_runs() if not run.left_out and run.architecture == "Turing"]
    assert {run.is_to_fit for run in turing} == {True, False}
