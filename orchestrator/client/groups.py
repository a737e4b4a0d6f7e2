"""Which group each picture belongs to: by a regular expression on its name, or by a table."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.errors import DataError

__all__ = ["groups_of"]

_MAX_BYTES = 256 << 20  # of a table: a few million rows
_TOLD = 3


def groups_of(names: Sequence[str], by: str) -> tuple[str, ...]:
    """The group of every picture.

    Args:
        names: Paths below the data set, with forward slashes.
        by: A regular expression that is looked for in the file's name, or in its path below the
            data set where it has a slash: its first group is the key, or all that it matches.
            Or a .csv file with the columns `file` (a path below the data set, or a name that only
            one picture has) and `group`.

    Raises:
        DataError: E3303 the key matches nothing, E3304 some pictures have no group, E3305 the
            table cannot be used.
    """
    found = _by_table(names, Path(by)) if by.lower().endswith(".csv") else _by_name(names, by)
    missing = [name for name in names if name not in found]
    if not found:
        raise DataError(
            f"folds.by {by!r:.80} matches none of {len(names)} pictures",
            code="E3303",
            why=(f"such as {', '.join(names[:_TOLD])}",),
            fix=(r"a regular expression for their names, such as ^(\w+)_", "or a file,group .csv"),
        )
    if missing:
        raise DataError(
            f"folds.by {by!r:.80} gives {len(missing)} of {len(names)} pictures no group",
            code="E3304",
            why=(f"such as {', '.join(missing[:_TOLD])}",),
            fix=("every picture needs a group: two of one group must not be in two folds",),
        )
    return tuple(found[name] for name in names)


def _by_name(names: Sequence[str], by: str) -> dict[str, str]:
    pattern = re.compile(by)
    found = {}
    for name in names:
        match = pattern.search(name if "/" in by else PurePosixPath(name).name)
        if match is not None:
            found[name] = (match[1] if pattern.groups else match[0]) or ""
    return found


def _by_table(names: Sequence[str], path: Path) -> dict[str, str]:
    by_name: dict[str, list[str]] = {}
    for name in names:
        by_name.setdefault(PurePosixPath(name).name, []).append(name)
    known = set(names)
    found = {}
    for file, group in _rows(path).items():
        alone = by_name.get(file, [])
        if file in known:
            found[file] = group
        elif len(alone) == 1:
            found[alone[0]] = group
        elif alone:
            raise _unusable(path, f"{file} is the name of {len(alone)} pictures", "give its path")
    return found


def _rows(path: Path) -> Mapping[str, str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _unusable(path, "it is larger than 256 MiB", "is it a table of files?")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                raise _unusable(path, "its first line is not file,group", "file,group")
            rows = [(row["file"], row["group"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unusable(path, str(error), "name a .csv file in UTF-8") from error
    found: dict[str, str] = {}
    for number, (name, group) in enumerate(rows, 2):
        if not name or group is None:
            raise _unusable(path, f"line {number} has no file or no group", "file,group")
        if found.setdefault(name, group) != group:
            raise _unusable(path, f"line {number}: {name} has two groups", "one row a file")
    return found


def _unusable(path: Path, why: str, fix: str) -> DataError:
    return DataError(
        f"folds.by: the table {path} cannot be used", code="E3305", why=(why,), fix=(fix,)
    )
