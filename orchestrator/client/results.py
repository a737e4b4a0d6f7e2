"""The result of a series: one row a fold and stage, mean and deviation over folds, two files."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.client.records import Run, listed_run
from orchestrator.errors import StoreError
from orchestrator.messages import Event
from orchestrator.types import Part, RunState, RunStatus

if TYPE_CHECKING:
    from orchestrator.store.sql import SqlStore

__all__ = ["Series", "SeriesObserver", "Spread", "series_of", "write_results"]

_HEAD = (
    "config", "fold", "folds", "stage", "stages", "stage_name", "run", "state", "epochs",
    "best_epoch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A metric over the folds that have succeeded.

    `std` is the sample standard deviation (n - 1); None for fewer than two folds. Folds share
    their training pictures, so it describes these runs and is no confidence interval.
    """

    mean: float
    std: float | None
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All runs that one project asked for together, in the order of folds and stages."""

    project: str
    series: str
    config: str
    num_folds: int
    num_stages: int
    runs: tuple[Run, ...] = field(default=())

    @property
    def has_ended(self) -> bool:
        """True when every fold and stage has a run, and all have ended."""
        wanted = max(1, self.num_folds) * max(1, self.num_stages)
        return len(self.runs) == wanted and all(run.state.is_terminal for run in self.runs)

    def spread(self, stage: int) -> dict[str, Spread]:
        """Best metrics of a stage over its folds; those that every fold so far has."""
        good = [
            run.best
            for run in self.runs
            if _part(run).stage == stage and run.state is RunState.SUCCEEDED
        ]
        names = [name for name in (good[0] if good else {}) if all(name in row for row in good)]
        found = {}
        for name in names:
            values = [row[name] for row in good]
            if all(map(math.isfinite, values)):
                std = statistics.stdev(values) if len(values) > 1 else None
                found[name] = Spread(mean=statistics.fmean(values), std=std, num=len(values))
        return found


def _part(run: Run) -> Part:
    """Which run of its series it is."""
    assert run.part is not None, f"{run.id} is of no series"
    return run.part


def series_of(runs: Sequence[Run]) -> tuple[Series, ...]:
    """The series among runs of one project, the oldest first; each fold and stage once.

    The runs come oldest first.
    """
    found: dict[str, dict[tuple[int, int], Run]] = {}
    for run in runs:
        if run.part is not None:
            own = found.setdefault(run.part.series, {})
            own.setdefault((run.part.fold, run.part.stage), run)
    return tuple(_series(own) for own in found.values())


def _series(own: Mapping[tuple[int, int], Run]) -> Series:
    runs = tuple(own[key] for key in sorted(own))
    part = _part(runs[0])
    return Series(
        project=runs[0].project,
        series=part.series,
        config=part.config,
        num_folds=part.num_folds,
        num_stages=part.num_stages,
        runs=runs,
    )


def write_results(every: Sequence[Series]) -> tuple[Path, ...]:
    """Write `folds.csv` and `folds.json` (`stages.*` without folds) into a project's folder.

    They hold every config whose series has ended, each fold and stage of it once: where one was
    trained several times, its newest series that has ended counts.

    Args:
        every: The series of one project, the oldest first.

    Returns:
        The files, none before a series has ended.

    Raises:
        StoreError: The disk failed.
    """
    from orchestrator.store.faults import explained_disk
    from orchestrator.store.private import replace_file

    written = []
    for name, has_folds in (("folds", True), ("stages", False)):
        newest = {
            series.config: series
            for series in every
            if series.has_ended and bool(series.num_folds) == has_folds
        }
        if not newest:
            continue
        chosen = list(newest.values())
        folder = Path(chosen[0].runs[0].folder).parent
        for path, text in (
            (folder / f"{name}.csv", _csv(chosen)),
            (folder / f"{name}.json", _json(chosen)),
        ):
            with explained_disk(f"the file {path}"):
                replace_file(path, text.encode())
            written.append(path)
    return tuple(written)


def _rows(every: Sequence[Series]) -> list[dict[str, Any]]:
    rows = []
    for series in every:
        for run in series.runs:
            part = _part(run)
            values = (
                part.config, part.fold, part.num_folds, part.stage, part.num_stages,
                part.stage_name, run.id, run.state.value, run.epoch, run.best_epoch,
            )  # fmt: skip
            metrics = {n: v if math.isfinite(v) else None for n, v in run.best.items()}
            rows.append({**dict(zip(_HEAD, values, strict=True)), "metrics": metrics})
    return rows


def _csv(every: Sequence[Series]) -> str:
    rows = _rows(every)
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_HEAD, *names], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**{name: row[name] for name in _HEAD}, **row["metrics"]})
    return text.getvalue()


def _json(every: Sequence[Series]) -> str:
    summary = [
        {
            "config": series.config,
            "stage": stage,
            "metrics": {
                name: {"mean": one.mean, "std": one.std, "num": one.num}
                for name, one in series.spread(stage).items()
            },
        }
        for series in every
        for stage in sorted({_part(run).stage for run in series.runs})
    ]
    body = {"schema_version": 1, "project": every[0].project, "rows": _rows(every)}
    return json.dumps(body | {"summary": summary}, indent=1, allow_nan=False) + "\n"


class SeriesObserver:
    """Writes the files of a series when the last of its runs has ended, as the driver goes.

    The store is the truth and the files are a copy: a disk that is full is logged and stops
    nothing. What an earlier driver did not come to is written with the first event.
    """

    def __init__(self, store: "SqlStore") -> None:
        self._store = store
        self._ended: dict[str, RunState] = {}
        self._is_new = True

    def __call__(self, event: Event, statuses: Sequence[RunStatus] = ()) -> None:
        """Look at what ended with an event that was recorded."""
        if event.is_volatile:
            return
        known = self._store.statuses() if self._is_new else statuses
        self._is_new = False
        ended = [
            status
            for status in known
            if status.part and self._ended.get(status.run_id) != status.state
        ]
        self._ended.update((status.run_id, status.state) for status in ended)
        for project in dict.fromkeys(s.project for s in ended if s.state.is_terminal):
            self._write(project)

    def _write(self, project: str) -> None:
        known, _ = self._store.listing(project=project)
        try:
            write_results(series_of([listed_run(row) for row in known]))
        except (OSError, StoreError) as error:
            import structlog  # it takes a tenth of a second, and a sound disk needs none

            structlog.get_logger().warning(
                "the results of a series cannot be written; the store keeps them",
                project=project,
                error=str(error),
            )
