"""Reads job lists: CSV files that are recognised by their columns, and folders of measured ones.

A CSV file needs a header with `submit_s`, `duration_s` and `gpus`; `queue`, `priority`,
`memory_gib`, `model` and `name` may be there. The names that published traces use for these are
known (`_COLUMNS`): those of Philly and Shockwave need nothing else. A list with `total_steps`
instead of a duration (Gavel) takes the measured speeds of `throughput_isolated.csv` beside it.
Rows that cannot be read are counted and the first are named; they refuse the file unless they
may be skipped.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.errors import ConfigError, DataError, NotFoundError
from orchestrator.simulation.csv_lines import csv_lines, refused
from orchestrator.simulation.jobs import Job, JobList
from orchestrator.simulation.measured_jobs import (
    REFERENCE,
    SPEEDS,
    measured_jobs,
    read_step_speeds,
)
from orchestrator.types import Seconds

__all__ = ["read_jobs"]

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "submit_s": ("submit_s",),
    "duration_s": ("duration_s",),
    "gpus": ("gpus", "num_gpus"),
    "queue": ("queue", "vc"),
    "priority": ("priority",),
    "memory_gib": ("memory_gib",),
    "model": ("model",),
    "name": ("name", "job"),
    "part": ("trace", "workload"),
    "total_steps": ("total_steps",),
    "batch": ("batch_size",),
}
_MOST_GPUS = 100_000
_MOST_SECONDS = 1e10
_PRIORITIES = range(-1000, 1001)
_Row = Mapping[str, str]
_Duration = Callable[[_Row, int], Seconds]


def read_jobs(path: Path, *, part: str | None = None, skip_broken: bool = False) -> JobList:
    """The jobs of a CSV file or of a folder of measured applications.

    Args:
        path: The file, or the folder that holds `workloads.csv` and `apps/`.
        part: Which list, where the source holds several.
        skip_broken: Leave rows out that cannot be read, instead of refusing the file.

    Returns:
        The jobs in the order of submission; the first is submitted at 0.

    Raises:
        NotFoundError: E3401, there is no such file.
        DataError: E3402, it is no job list, or rows cannot be read.
        ConfigError: E1205, no such part, or there are several and none was named.
    """
    if not path.exists():
        raise NotFoundError(f"{path} is not there", code="E3401", fix=("name a job list",))
    found = _folder(path, part) if path.is_dir() else _csv(path, part, skip_broken=skip_broken)
    ordered = sorted(found.jobs, key=lambda job: job.submit_s)  # stable: equal times as in the file
    first = ordered[0].submit_s
    jobs = tuple(replace(job, submit_s=job.submit_s - first) for job in ordered)
    return replace(found, jobs=jobs)


def _folder(path: Path, part: str | None) -> JobList:
    return JobList(
        jobs=tuple(_chosen(path, measured_jobs(path), part)),
        source="measured applications (as Pollux')",
        notes=("durations are those of the measured tables on the GPUs asked for",),
    )


def _csv(path: Path, part: str | None, *, skip_broken: bool) -> JobList:
    table = _Table.open(path)
    duration, note = table.duration()
    parts: dict[str, list[Job]] = {}
    broken: list[str] = []
    names: set[tuple[str, str]] = set()
    for line, row in table.rows():
        try:
            job = _job(row, line, duration)
        except ValueError as error:
            broken.append(f"line {line}: {error}")
            continue
        if (row["part"], job.name) in names:
            broken.append(f"line {line}: a second job is named {job.name!r}")
            continue
        names.add((row["part"], job.name))
        parts.setdefault(row["part"], []).append(job)
    num_rows = len(broken) + sum(map(len, parts.values()))
    if broken and (not skip_broken or len(broken) == num_rows):
        raise refused(path, broken, num_rows)
    if not parts:
        raise DataError(f"{path} has no rows", code="E3402", fix=("name a list with jobs",))
    notes = [note] if note else []
    if broken:
        notes.append(f"{len(broken):,} of {num_rows:,} rows were left out; {broken[0]}")
    return JobList(
        jobs=tuple(_chosen(path, parts, part)),
        source=table.kind,
        num_broken=len(broken),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """An open CSV file whose columns were recognised."""

    path: Path
    columns: Mapping[str, str]  # ours -> the file's

    @classmethod
    def open(cls, path: Path) -> "_Table":
        header = next(csv_lines(path), (0, []))[1]
        columns = {
            ours: name
            for ours, names in _COLUMNS.items()
            for name in reversed(names)
            if name in header
        }
        missing = [name for name in ("submit_s", "gpus") if name not in columns]
        if "duration_s" not in columns and "total_steps" not in columns:
            missing.append("duration_s")
        if missing:
            told = ", ".join(header)[:200] or "nothing"
            raise DataError(
                f"{path} is no job list: no column {' and no column '.join(missing)}",
                code="E3402",
                why=(f"its first line is: {told}",),
                fix=("a header such as submit_s,duration_s,gpus,queue,priority,memory_gib",),
            )
        return cls(path, columns)

    @property
    def kind(self) -> str:
        """What the columns say of the file."""
        has = set(self.columns.values())
        if "duration_s" not in has:
            return "job list in steps (as Gavel's)"
        if "vc" in has:
            return "job list by virtual cluster (as Philly's)"
        return "job list by trace (as Shockwave's)" if "trace" in has else "job list"

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """The number of the line, and the values under our names; "" for what is not there."""
        lines = csv_lines(self.path)
        _, header = next(lines)
        at = {ours: header.index(name) for ours, name in self.columns.items()}
        for number, values in lines:
            if values:
                row = {ours: values[i].strip() for ours, i in at.items() if i < len(values)}
                is_cut = len(values) != len(header)
                yield number, dict.fromkeys(_COLUMNS, "") | row | ({"gpus": ""} if is_cut else {})

    def duration(self) -> tuple[_Duration, str]:
        """How to find the seconds of a row, and what has to be told of that."""
        if "duration_s" in self.columns:
            return (lambda row, _: _number(row, "duration_s", least=1e-3)), ""
        speeds = read_step_speeds(self.path.parent / SPEEDS)

        def of_steps(row: _Row, num_gpus: int) -> Seconds:
            speed = speeds.get((row["model"], row["batch"], num_gpus))
            if speed is None:
                what = f"{row['model']} {row['batch']}".strip()
                raise ValueError(f"no speed was measured for {what} on {num_gpus} {REFERENCE}")
            return _number(row, "total_steps", least=1.0) / speed

        return of_steps, f"durations are total_steps over the speed on {REFERENCE} in {SPEEDS}"


def _job(row: _Row, line: int, duration: _Duration) -> Job:
    num_gpus = _whole(row, "gpus", range(1, _MOST_GPUS + 1))
    is_philly = bool(row["queue"]) and not row["model"]
    return Job(
        name=_word(row, "name") or f"job-{line:06}",
        submit_s=_number(row, "submit_s", least=-_MOST_SECONDS),
        duration_s=duration(row, num_gpus),
        num_gpus=num_gpus,
        queue=_word(row, "queue") or "default",
        priority=_whole(row, "priority", _PRIORITIES) if row["priority"] else 50,
        memory_gib=_number(row, "memory_gib", least=1e-3) if row["memory_gib"] else None,
        kind=_word(row, "queue") if is_philly else f"{row['model']} {row['batch']}".strip(),
    )


def _number(row: _Row, column: str, *, least: float) -> float:
    try:
        number = float(row[column])
    except ValueError:
        raise ValueError(f"{column} is {row[column]!r}, not a number") from None
    if not least <= number <= _MOST_SECONDS:
        raise ValueError(f"{column} is {row[column]}, not from {least:g} to {_MOST_SECONDS:g}")
    return number


def _whole(row: _Row, column: str, allowed: range) -> int:
    number = _number(row, column, least=-_MOST_SECONDS)
    if not number.is_integer() or int(number) not in allowed:
        raise ValueError(
            f"{column} is {row[column]}, not a whole number from {allowed[0]} to {allowed[-1]}"
        )
    return int(number)


def _word(row: _Row, column: str) -> str:
    if len(row[column]) > 100 or not row[column].isprintable():
        raise ValueError(f"{column} is longer than 100 characters, or not readable")
    return row[column]


def _chosen(path: Path, parts: Mapping[str, list[Job]], part: str | None) -> list[Job]:
    if part is None and len(parts) == 1:
        return next(iter(parts.values()))
    if part is None or part not in parts:
        what = "holds several job lists" if part is None else f"has no part {part!r}"
        raise ConfigError(
            f"{path} {what}",
            code="E1205",
            why=(f"its parts: {', '.join(sorted(parts)[:20]) or 'none'}",),
            fix=(f"--part {next(iter(sorted(parts)))}",),
        )
    return parts[part]
