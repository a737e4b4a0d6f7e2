"""Reads Gavel's tables: steps a second of trainings on three kinds of card, alone and in pairs.

The tables are those of "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning
Workloads" (OSDI 2020). A pair that did not fit in the card's memory has 0 for both. A row that
cannot be read refuses the file: every such row is counted and the first are named, since a
comparison on a part of a table compares nothing.
"""

from pathlib import Path

from orchestrator.schedule.assign import Kind, Signature, Speeds
from orchestrator.simulation.tables import Row, count, number, read_rows

__all__ = ["REFERENCE", "read_mix", "read_speeds"]

REFERENCE: Kind = "v100"  # the fastest of the three
_Pair = tuple[Kind, Signature, Signature]


def read_speeds(folder: Path) -> Speeds:
    """Steps a second on one card, alone and beside another training.

    Raises:
        NotFoundError: E3401, a table is not there.
        DataError: E3402, rows cannot be read, or a pair has a training that never ran alone.
    """
    rows = read_rows(folder / "throughput_isolated.csv", _isolated)
    alone = {key: speed for key, speed in rows if key is not None}
    beside: dict[tuple[Signature, Signature, Kind], float] = {}
    path = folder / "throughput_colocated.csv"

    def colocated(row: Row) -> tuple[_Pair, tuple[float, float]]:
        found = _colocated(row)
        kind, *pair = found[0]
        for signature in pair:
            if (signature, kind) not in alone:
                raise ValueError(f"{signature} is not known alone on {kind}")
        return found

    for (kind, first, second), (mine, theirs) in read_rows(path, colocated):
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
    rows = read_rows(folder / "msr_seed0_jobs.csv", _job)
    return tuple(signature for signature, num_gpus in rows if num_gpus == 1)


def _isolated(row: Row) -> tuple[tuple[Signature, Kind] | None, float]:
    is_one = count(row, "num_gpus") == 1 and count(row, "consolidated", least=0) == 1
    speed = number(row, "steps_per_s")
    return ((_signature(row), _kind(row)) if is_one else None), speed


def _colocated(row: Row) -> tuple[_Pair, tuple[float, float]]:
    mine, theirs = number(row, "steps_per_s1"), number(row, "steps_per_s2")
    if (mine == 0) != (theirs == 0):
        raise ValueError(f"one of the pair stands still: {mine} and {theirs} steps a second")
    return (_kind(row), _signature(row, "1"), _signature(row, "2")), (mine, theirs)


def _job(row: Row) -> tuple[Signature, int]:
    return _signature(row), count(row, "num_gpus")


def _signature(row: Row, which: str = "") -> Signature:
    model = row[f"model{which}"]
    batch = row[f"batch{which}" if which else "batch_size"]
    if not model:
        raise ValueError("no model")
    return f"{model} {int(batch)}" if batch else model  # two have no batch


def _kind(row: Row) -> Kind:
    if not row["gpu"]:
        raise ValueError("no gpu")
    return row["gpu"]
