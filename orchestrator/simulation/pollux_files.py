"""Reads the tables of measured applications, the job lists, and what others have published of them.

A row that cannot be read refuses the file: every such row is counted and the first are named, since
a comparison on a part of a table compares nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from orchestrator.errors import DataError, NotFoundError
from orchestrator.simulation.pollux import (
    Application,
    ApplicationTables,
    Epochs,
    Moments,
    Shape,
    StepTime,
)
from orchestrator.simulation.tables import Row, count, number, read_rows
from orchestrator.types import Seconds

__all__ = ["Published", "Submission", "read_applications", "read_published", "read_submissions"]

_NUM_EPOCHS: Mapping[str, int] = {
    "bert": 2, "cifar10": 100, "ncf": 10, "imagenet": 90, "deepspeech2": 80, "yolov3": 50,
}  # fmt: skip
_MOST_LOCAL: Mapping[str, int] = {"yolov3": 8}  # what the published simulator allows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One row of a job list: when it comes, and the GPUs and batch that its user asked for."""

    name: str
    submit_s: Seconds
    app: str
    num_gpus: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Completion times of one published run over a whole workload, in seconds."""

    num_jobs: int
    average_s: Seconds
    p50_s: Seconds
    p99_s: Seconds


def read_applications(folder: Path) -> dict[str, Application]:
    """Every application of `folder/apps`, by name.

    Raises:
        NotFoundError: A table is missing.
        DataError: Rows cannot be read.
    """
    apps = folder / "apps"
    if not apps.is_dir():
        raise _missing(apps)
    names = sorted(path.name for path in apps.iterdir() if path.is_dir())
    unknown = [name for name in names if name not in _NUM_EPOCHS]
    if unknown or not names:
        raise DataError(
            f"{apps} holds {'no application' if not names else 'unknown applications'}",
            code="E3402",
            why=tuple(f"{name}: how many epochs it runs is not known" for name in unknown),
            fix=(f"the known ones are {', '.join(sorted(_NUM_EPOCHS))}",),
        )
    return {name: _read_application(apps / name) for name in names}


def read_submissions(folder: Path) -> dict[tuple[str, str], tuple[Submission, ...]]:
    """The job lists of `folder/workloads.csv` by (set, workload), in the order of the file.

    Raises:
        NotFoundError: The file is missing.
        DataError: Rows cannot be read.
    """
    lists: dict[tuple[str, str], list[Submission]] = {}
    for key, job in read_rows(folder / "workloads.csv", _submission):
        lists.setdefault(key, []).append(job)
    return {key: tuple(jobs) for key, jobs in lists.items()}


def read_published(folder: Path) -> dict[tuple[str, str], Published]:
    """What `folder/published_results.csv` tells by (run, workload), e.g. ("tiresias-1.0", "1").

    Raises:
        NotFoundError: The file is missing.
        DataError: Rows cannot be read.
    """
    return dict(read_rows(folder / "published_results.csv", _published))


def _submission(row: Row) -> tuple[tuple[str, str], Submission]:
    if row["app"] not in _NUM_EPOCHS:
        raise ValueError(f"unknown application {row['app']!r}")
    job = Submission(
        name=row["job"],
        submit_s=number(row, "submit_s"),
        app=row["app"],
        num_gpus=count(row, "num_gpus"),
        batch=count(row, "batch_size"),
    )
    return (row["set"], row["workload"]), job


def _published(row: Row) -> tuple[tuple[str, str], Published]:
    told = Published(
        num_jobs=count(row, "jobs"),
        average_s=number(row, "avg_jct_s"),
        p50_s=number(row, "p50_jct_s"),
        p99_s=number(row, "p99_jct_s"),
    )
    return (row["run"], row["workload"].removeprefix("workload-")), told


def _read_application(folder: Path) -> Application:
    placements: dict[Shape, dict[int, StepTime]] = {}
    for (shape, size), seconds in read_rows(folder / "placements.csv", _placement):
        placements.setdefault(shape, {})[size] = seconds
    tables = ApplicationTables(
        placements=placements,
        scalability=dict(read_rows(folder / "scalability.csv", _scalability)),
        epochs={size: _read_epochs(path) for size, path in _validations(folder)},
    )
    name = folder.name
    least = min(len(each.progress) for each in tables.epochs.values())
    if least < _NUM_EPOCHS[name]:
        raise DataError(
            f"{folder} has too few epochs",
            code="E3402",
            why=(f"{_NUM_EPOCHS[name]} epochs are to be run; one validation table has {least}",),
            fix=("fetch the tables again",),
        )
    return Application(name, tables, _NUM_EPOCHS[name], _MOST_LOCAL.get(name))


def _validations(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in sorted(folder.glob("validation-*.csv")):
        size = path.stem.removeprefix("validation-")
        if not size.isdecimal() or int(size) < 1:
            raise DataError(
                f"{path} names no batch",
                code="E3402",
                fix=("name it validation-BATCH.csv, e.g. validation-128.csv",),
            )
        found.append((int(size), path))
    if not found:
        raise _missing(folder / "validation-BATCH.csv")
    return found


def _read_epochs(path: Path) -> Epochs:
    rows = list(read_rows(path, _epoch))
    progress = tuple(row[0] for row in rows)
    if any(after <= before for before, after in pairwise(progress)):
        raise DataError(
            f"{path}: progress does not grow from epoch to epoch",
            code="E3402",
            fix=("fetch the tables again",),
        )
    return Epochs(
        progress=progress,
        iteration=tuple(row[1] for row in rows),
        moments=tuple(row[2] for row in rows),
    )


def _placement(row: Row) -> tuple[tuple[Shape, int], StepTime]:
    shape = tuple(int(digit) for digit in row["placement"])
    if not shape or 0 in shape:
        raise ValueError(f"placement {row['placement']!r} is no row of GPUs per node")
    return (shape, count(row, "local_bsz")), _step_time(row)


def _scalability(row: Row) -> tuple[tuple[int, int, int], StepTime]:
    key = (count(row, "num_nodes"), count(row, "num_replicas"), count(row, "local_bsz"))
    return key, _step_time(row)


def _step_time(row: Row) -> StepTime:
    seconds = StepTime(number(row, "step_time"), number(row, "sync_time"))
    if seconds.step <= 0 or seconds.sync > seconds.step:
        raise ValueError(f"a step of {seconds.step} s that synchronizes for {seconds.sync} s")
    return seconds


def _epoch(row: Row) -> tuple[float, float, Moments]:
    moments = Moments(number(row, "grad_sqr"), number(row, "grad_var"))
    if moments.sqr + moments.var <= 0:
        raise ValueError("grad_sqr and grad_var are both 0")
    return number(row, "progress"), number(row, "iteration"), moments


def _missing(path: Path) -> NotFoundError:
    return NotFoundError(
        f"{path} is not there",
        code="E3401",
        why=("the comparison needs the tables of measured applications and the job lists",),
        fix=("name the folder that holds apps/, workloads.csv and published_results.csv",),
    )
