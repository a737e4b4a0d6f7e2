"""What a what-if prints: the policies side by side, a line a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["table_lines"]

_LINES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("completion, mean", ("completion_hours", "mean")),
    ("            p50", ("completion_hours", "p50")),
    ("            p99", ("completion_hours", "p99")),
    ("waiting, mean", ("waiting_hours", "mean")),
    ("         p50", ("waiting_hours", "p50")),
    ("         p99", ("waiting_hours", "p99")),
    ("makespan", ("makespan_hours",)),
    ("utilisation", ("utilisation",)),
    ("fairness, mean", ("finish_time_fairness", "mean")),
    ("          p99", ("finish_time_fairness", "p99")),
    ("          above 1", ("finish_time_fairness", "unfair_part")),
    ("Jain's index, queues", ("jain_queues",)),
    ("energy", ("energy_kwh",)),
    ("restarts", ("restarts",)),
    ("forecast error", ("forecast_error",)),
    ("         in range", ("forecast_inside",)),
)
_PARTS = frozenset({"utilisation", "unfair_part", "forecast_error", "forecast_inside"})


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table with a column a policy, from the plain figures of each."""
    cells = [["", *(str(row["policy"]) for row in rows)]]
    cells += [[name, *(_cell(row, path) for row in rows)] for name, path in _LINES]
    for kind in ("states", "failures"):
        for name in dict.fromkeys(name for row in rows for name in row[kind]):
            cells.append([f"runs {name}" if kind == "states" else name,
                          *(f"{row[kind].get(name, 0):,}" for row in rows)])  # fmt: skip
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _cell(row: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = row
    for key in path:
        value = value[key]
    if value is None:
        return "-"
    if path[-1] in _PARTS:
        return f"{value:.1%}"
    if path[0].endswith("_hours"):
        return f"{value:,.2f} h" if value >= 1 else f"{value * 60:.1f} min"
    return f"{value:,.1f} kWh" if path[0] == "energy_kwh" else f"{value:,}"
