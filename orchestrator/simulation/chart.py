"""The picture of a what-if: who waits and completes how long, and how full the cluster is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, StoreError
from orchestrator.simulation.figures import HOUR, Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_target", "draw"]

_KINDS = (".png", ".svg")
_POINTS = 400  # of a curve
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LEAST_HOURS = 1e-3  # the left end of the logarithmic axes


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before anything is simulated.

    Raises:
        ConfigError: E1206, it is not .png or .svg, its folder is not there, or matplotlib is not.
    """
    if path.suffix.lower() not in _KINDS:
        raise ConfigError(
            f"{path}: a plot is a .png or an .svg file", code="E1206", fix=(f"{path.stem}.png",)
        )
    if not path.parent.is_dir():
        raise ConfigError(
            f"{path.parent} is not a folder", code="E1206", fix=("make it, or name another",)
        )
    try:
        import matplotlib  # noqa: F401 - is it there?
    except ImportError as error:
        raise ConfigError(
            "a plot needs matplotlib", code="E1206", fix=("pip install 'orchestrator[plot]'",)
        ) from error


def draw(found: Sequence[Figures], title: str, path: Path) -> None:
    """Draw the policies side by side; equal figures make equal bytes.

    Raises:
        StoreError: E5101, the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "orchestrator", "font.size": 9}):
        figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        completion, waiting, fairness, busy = figure.subplots(2, 2).flat
        for colour, one in zip(_COLOURS * len(found), found, strict=False):
            _curve(completion, [t / HOUR for t in one.completion_s], one.policy, colour)
            _curve(waiting, [t / HOUR for t in one.waiting_s], one.policy, colour)
            _curve(fairness, one.fairness, one.policy, colour)
            _busy(busy, one, colour)
        fairness.axvline(1.0, color="0.5", linewidth=0.8)
        for axes, name, unit in (
            (completion, "completion", "hours from submission to the end"),
            (waiting, "waiting", "hours from submission to the first start"),
            (fairness, "finish-time fairness", "completion / alone on an equal share"),
        ):
            axes.set(title=name, xlabel=unit, ylabel="part of the runs", ylim=(0, 1), xscale="log")
        busy.set(title="cards that are held", xlabel="days", ylabel="cards", ylim=(0, None))
        for axes in (completion, waiting, fairness, busy):
            axes.grid(alpha=0.3)
        completion.legend()
        figure.suptitle(title)
        stamp = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        try:
            figure.savefig(path, metadata=stamp)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written", code="E5101", why=(str(error),)
            ) from error


def _curve(axes: "Axes", ordered: Sequence[float], label: str, colour: str) -> None:
    """Part of the runs that do not exceed a value."""
    step = max(len(ordered) // _POINTS, 1)
    at = [*range(0, len(ordered), step), len(ordered) - 1] if ordered else []
    axes.plot(
        [max(ordered[i], _LEAST_HOURS) for i in at],
        [(i + 1) / len(ordered) for i in at],
        label=label,
        color=colour,
    )


def _busy(axes: "Axes", one: Figures, colour: str) -> None:
    """The mean of cards held over equal spans of time."""
    span = max(one.makespan_s, 1.0) / _POINTS
    area = [0.0] * _POINTS
    ends = [*(at for at, _ in one.busy[1:]), one.makespan_s]
    for (begin, num), end in zip(one.busy, ends, strict=True):
        first, last = (min(max(int(at / span), 0), _POINTS - 1) for at in (begin, end))
        for slot in range(first, last + 1):
            inside = min(end, (slot + 1) * span) - max(begin, slot * span)
            area[slot] += num * max(inside, 0.0)
    days = [(slot + 0.5) * span / 86400 for slot in range(_POINTS)]
    axes.plot(days, [each / span for each in area], color=colour, linewidth=1.0)
    axes.axhline(one.num_gpus, color="0.5", linewidth=0.8)
