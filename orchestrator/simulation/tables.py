"""Rows of published tables, read one by one; a table with a bad row is refused whole.

Every bad row is counted and the first are named, since a comparison on a part of a table compares
nothing.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

from orchestrator.errors import DataError, NotFoundError

__all__ = ["Row", "count", "number", "read_rows"]

Row: TypeAlias = dict[str, str]
_Read = TypeVar("_Read")

_NAMED = 5  # bad rows that an error names


def number(row: Row, column: str) -> float:
    """A number from 0.

    Raises:
        KeyError: There is no such column.
        ValueError: It is something else.
    """
    value = float(row[column])
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{column} is {row[column]!r}, not a number from 0")
    return value


def count(row: Row, column: str, *, least: int = 1) -> int:
    """A whole number; raises as `number`."""
    value = int(row[column])
    if value < least:
        raise ValueError(f"{column} is {value}, not at least {least}")
    return value


def read_rows(path: Path, read: Callable[[Row], _Read]) -> Iterator[_Read]:
    """Every row of a table, read.

    Raises:
        NotFoundError: No such file.
        DataError: It is no text, has no rows, or rows cannot be read: their number and the first.
    """
    good: list[_Read] = []
    bad: list[str] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                try:
                    good.append(read(row))
                except KeyError as error:
                    bad.append(f"line {line}: no column {error}")
                except (TypeError, ValueError) as error:
                    bad.append(f"line {line}: {error}")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} is not there",
            code="E3401",
            why=("the comparison needs published tables of measured trainings",),
            fix=("name the folder that holds the tables",),
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
