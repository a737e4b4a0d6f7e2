"""Reads Gavel's tables: steps a second of trainings on three kinds of card, alone and in pairs.

The tables are those of "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning
Workloads" (OSDI 2020). A pair that did not fit in the card's memory has 0 for both. A row that
cannot be read refuses the file: every such row is counted and the first are named, since a
comparison on a part of a table compares nothing.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import DataError, NotFoundError
from orchestrator.schedule.assign import Kind, Signature, Speeds

__all__ = ["REFERENCE", "read_mix", "read_speeds"]

REFERENCE: Kind = "v100"  # the fastest of the three
_NAMED = 5  # bad rows that an error names
_Row = dict[str, str]
_Pair = tuple[Kind, Signature, Signature]
_Read = TypeVar("_Read")


def read_speeds(folder: Path) -> Speeds:
    """Steps a second on one card, alone and beside another training.

    Raises:
        NotFoundError: E3401, a table is not there.
        DataError: E3402, rows cannot be read, or a pair has a training that never ran alone.
    """
    rows = _rows(folder / "throughput_isolated.csv", _isolated)
    alone = {key: speed for key, speed in rows if key is not None}
    beside: dict[tuple[Signature, Signature, Kind], float] = {}
    path = folder / "throughput_colocated.csv"

    def colocated(row: _Row) -> tuple[_Pair, tuple[float, float]]:
        found = _colocated(row)
        kind, *pair = found[0]
        for signature in pair:
            if (signature, kind) not in alone:
                raise ValueError(f"{signature} is not known alone on {kind}")
        return found

    for (kind, first, second), (mine, theirs) in _rows(path, colocated):
        is_twin = first == second  # one of two equal trainings runs at the mean of both
        beside[first, second, kind] = (mine + theirs) / 2 if is_twin else mine
        beside[second, first, kind] = (mine + theirs) / 2 if is_twin else theirs
    return Speeds(alone=alone, beside=beside, reference=REFERENCE)


def read_mix(folder: Path) -> tuple[Signature, ...]:
    """The trainings on one GPU of the job list of a shared cluster, in the order of the file.

    Raises:
        NotFoundError: E3401, the list is not there.
        DataError: E3402, rows cannot be read.
    """
    rows = _rows(folder / "msr_seed0_jobs.csv", _job)
    return tuple(signature for signature, num_gpus in rows if num_gpus == 1)


def _isolated(row: _Row) -> tuple[tuple[Signature, Kind] | None, float]:
    is_one = _count(row, "num_gpus") == 1 and _count(row, "consolidated", least=0) == 1
    speed = _speed(row, "steps_per_s")
    return ((_signature(row), _kind(row)) if is_one else None), speed


def _colocated(row: _Row) -> tuple[_Pair, tuple[float, float]]:
    mine, theirs = _speed(row, "steps_per_s1"), _speed(row, "steps_per_s2")
    if (mine == 0) != (theirs == 0):
        raise ValueError(f"one of the pair stands still: {mine} and {theirs} steps a second")
    return (_kind(row), _signature(row, "1"), _signature(row, "2")), (mine, theirs)


def _job(row: _Row) -> tuple[Signature, int]:
    return _signature(row), _count(row, "num_gpus")


def _signature(row: _Row, which: str = "") -> Signature:
    model = row[f"model{which}"]
    batch = row[f"batch{which}" if which else "batch_size"]
    if not model:
        raise ValueError("no model")
    return f"{model} {int(batch)}" if batch else model  # two have no batch


def _kind(row: _Row) -> Kind:
    if not row["gpu"]:
        raise ValueError("no gpu")
    return row["gpu"]


def _speed(row: _Row, column: str) -> float:
    number = float(row[column])
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{column} is {row[column]!r}, not a number from 0")
    return number


def _count(row: _Row, column: str, *, least: int = 1) -> int:
    number = int(row[column])
    if number < least:
        raise ValueError(f"{column} is {number}, not at least {least}")
    return number


def _rows(path: Path, read: Callable[[_Row], _Read]) -> Iterator[_Read]:
    good: list[_Read] = []
    bad: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    good.append(read(row))
                except KeyError as error:
                    bad.append(f"line {number}: no column {error}")
                except (TypeError, ValueError) as error:
                    bad.append(f"line {number}: {error}")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} is not there",
            code="E3401",
            fix=("name the folder that holds throughput_isolated.csv",),
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read", code="E3402", why=(str(error),), fix=("fetch it again",)
        ) from error
    if bad or not good:
        more = (f"and {len(bad) - _NAMED} more",) if len(bad) > _NAMED else ()
        raise DataError(
            f"{path}: {len(bad)} of {len(bad) + len(good)} rows cannot be read"
            if bad
            else f"{path} has no rows",
            code="E3402",
            why=(*bad[:_NAMED], *more),
            fix=("correct or remove these rows, or fetch the table again",),
        )
    yield from good
