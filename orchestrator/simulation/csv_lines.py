"""Lines of a CSV file with their numbers, and the error that names those that cannot be read."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.errors import DataError, NotFoundError

__all__ = ["csv_lines", "refused"]

_NAMED = 3  # broken rows that are named


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file, each with its number.

    Raises:
        NotFoundError: E3401, it is not there.
        DataError: E3402, it is no text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for values in reader:
                yield reader.line_num, values
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} is not there", code="E3401", fix=("put it beside the job list",)
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read", code="E3402", why=(str(error),), fix=("name a CSV file",)
        ) from error


def refused(path: Path, broken: Sequence[str], num_rows: int) -> DataError:
    """That so many of the rows cannot be read, and the first of them."""
    more = (f"and {len(broken) - _NAMED:,} more",) if len(broken) > _NAMED else ()
    return DataError(
        f"{path}: {len(broken):,} of {num_rows:,} rows cannot be read",
        code="E3402",
        why=(*broken[:_NAMED], *more),
        fix=("correct these rows, or leave them out with --skip-broken",),
    )
