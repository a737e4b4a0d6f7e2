"""Jobs whose duration follows from measured speeds: of applications, and of steps on a card."""

from pathlib import Path

from orchestrator.errors import DataError
from orchestrator.simulation.csv_lines import csv_lines, refused
from orchestrator.simulation.jobs import Job
from orchestrator.simulation.pollux import Application, Shape, packed_shape
from orchestrator.simulation.pollux_files import Submission, read_applications, read_submissions

__all__ = ["REFERENCE", "SPEEDS", "measured_jobs", "read_step_speeds"]

SPEEDS = "throughput_isolated.csv"
REFERENCE = "v100"  # the card that the durations of a list in steps are for
_NODE = 4  # GPUs of a node of the measured applications
_WIDEST = 64  # GPUs that a batch is tried on


def measured_jobs(folder: Path) -> dict[str, list[Job]]:
    """The job lists of measured applications by "set/workload".

    Each job takes as long as its tables say on the GPUs that its user asked for, packed; on the
    least number above where its batch does not fit on those.

    Raises:
        NotFoundError: a table is missing.
        DataError: rows cannot be read.
    """
    apps = read_applications(folder)
    lists = read_submissions(folder)
    parts: dict[str, list[Job]] = {}
    for (kind, number), rows in lists.items():
        for row in rows:
            app = apps[row.app]
            shape = _shape(app, row)
            ends = (0.0, *app.epoch_ends[: app.num_epochs])
            seconds = sum(
                (ends[at + 1] - ends[at]) / app.rate(shape, row.batch, at)
                for at in range(app.num_epochs)
            )
            made = Job(
                name=row.name,
                submit_s=row.submit_s,
                duration_s=seconds,
                num_gpus=sum(shape),
                kind=f"{row.app} {row.batch}",
            )
            parts.setdefault(f"{kind}/{number}", []).append(made)
    return parts


def _shape(app: Application, row: Submission) -> Shape:
    for width in range(row.num_gpus, _WIDEST + 1):
        shape = packed_shape(width, _NODE)
        if app.rate(shape, row.batch, 0) > 0:
            return shape
    raise DataError(
        f"{row.name}: the tables of {row.app} know no placement for batch {row.batch}",
        code="E3402",
        why=(f"{row.num_gpus} to {_WIDEST} GPUs were tried",),
    )


def read_step_speeds(path: Path) -> dict[tuple[str, str, int], float]:
    """Steps a second by model, batch and number of GPUs, on one node of the reference card.

    Raises:
        NotFoundError: E3401, the table is not there.
        DataError: E3402, it cannot be read.
    """
    wanted = ("gpu", "consolidated", "model", "batch_size", "num_gpus", "steps_per_s")
    lines = csv_lines(path)
    _, header = next(lines, (0, []))
    if any(name not in header for name in wanted):
        raise DataError(
            f"{path} is no table of speeds", code="E3402", why=(f"it needs {', '.join(wanted)}",)
        )
    found: dict[tuple[str, str, int], float] = {}
    for number, values in lines:
        row = dict(zip(header, values, strict=False))
        try:
            if row["gpu"] == REFERENCE and row["consolidated"] == "1":
                key = (row["model"], row["batch_size"], int(row["num_gpus"]))
                found[key] = float(row["steps_per_s"])
        except (KeyError, ValueError) as error:
            raise refused(path, [f"line {number}: {error}"], number - 1) from error
    bad = [f"{key}: {speed} steps a second" for key, speed in found.items() if not speed > 0]
    if bad or not found:
        raise refused(path, bad, len(found))
    return found
