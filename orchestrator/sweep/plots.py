"""Pictures of a sweep as files: history, parallel coordinates, importance, Pareto front."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, NotFoundError, StoreError
from orchestrator.sweep.importance import Importance, importance_of
from orchestrator.sweep.records import SweepRecord
from orchestrator.sweep.space import Dimension, Kind
from orchestrator.sweep.trials import Trial, TrialState
from orchestrator.types import Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Plots", "draw_sweep"]

_KINDS = ("png", "svg")
_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "0.6"
_TICKS = 9  # most labels of an axis of choices
_LABEL = 14  # most letters of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Plots:
    """Files that were written, and why others were not, by their names."""

    written: tuple[Path, ...]
    left_out: dict[str, str]


def draw_sweep(
    record: SweepRecord, folder: Path, *, kind: str = "png", evaluator: str = "ped-anova"
) -> Plots:
    """Draw a sweep into a folder, which is made where it is not there; files are replaced.

    Args:
        record: Of the sweep.
        folder: Takes `history`, `parallel`, `importance` and `front`.
        kind: `png` or `svg`; equal records make equal bytes.
        evaluator: Of the importance.

    Raises:
        ConfigError: E1206, `kind` is another, or matplotlib is not installed.
        StoreError: E5101, a file cannot be written.
    """
    if kind not in _KINDS:
        raise ConfigError(f"a plot is a {' or '.join(_KINDS)}, not {kind!r:.20}", code="E1206")
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ConfigError(
            "a plot needs matplotlib", code="E1206", fix=("pip install 'orchestrator[plot]'",)
        ) from error
    written: list[Path] = []
    left_out: dict[str, str] = {}
    with mpl.rc_context({"svg.hashsalt": "orchestrator", "font.size": 9}):
        for name, make in _PICTURES.items():
            try:
                drawn = make(record, evaluator)
            except (NotFoundError, ConfigError) as error:  # nothing to draw, and why
                left_out[name] = error.what
                continue
            drawn.suptitle(f"{record.definition.name}: {name}")
            written.append(_save(drawn, folder / f"{name}.{kind}"))
    return Plots(written=tuple(written), left_out=left_out)


def _save(figure: "Figure", path: Path) -> Path:
    stamp = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=stamp)
    except OSError as error:
        raise StoreError(f"{path} cannot be written", code="E5101", why=(str(error),)) from error
    return path


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scored(record: SweepRecord) -> list[tuple[Trial, tuple[float, ...]]]:
    """Trials with their metrics in their own signs.

    Raises:
        NotFoundError: E5033, there are none.
    """
    found = [(trial, record.metrics(trial)) for trial in record.started]
    found = [pair for pair in found if pair[1]]
    if not found:
        raise NotFoundError(f"{record.definition.name} has no scored trial", code="E5033")
    return found


def _history(record: SweepRecord, _: str) -> "Figure":
    """Each trial's first metric, what the best was until then, and what was refused."""
    found = _scored(record)
    is_higher = record.definition.modes[0] == "max"
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    for word, colour, is_early in (("whole", _BLUE, False), ("stopped early", _GREY, True)):
        chosen = [p for p in found if (p[0].state is TrialState.STOPPED) is is_early]
        axes.scatter(
            [t.number for t, _ in chosen], [m[0] for _, m in chosen], s=18, c=colour, label=word
        )
    best: list[float] = []
    for pair in found:
        best.append((max if is_higher else min)([*best[-1:], pair[1][0]]))
    axes.step([t.number for t, _ in found], best, where="post", color=_RED, label="best so far")
    lost = (TrialState.REFUSED, TrialState.INFEASIBLE)
    for number in [each.number for each in record.trials if each.state in lost]:
        axes.axvline(number, ymax=0.03, color="black", linewidth=0.8)
    axes.set(xlabel="suggestion (ticks at the foot: refused or infeasible)")
    axes.set(ylabel=record.definition.metrics[0])
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _parallel(record: SweepRecord, _: str) -> "Figure":
    """A line a trial through the values of every key, coloured by its first metric."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    found = _scored(record)
    space = record.definition.space
    marks = {key: _Marks(dimension) for key, dimension in space.items()}
    scores = [metrics[0] for _, metrics in found]
    figure = _figure(max(6.0, 1.4 * len(space) + 2), 5)
    axes = figure.subplots()
    lines = [
        [(at, marks[key].place(t.values[key])) for at, key in enumerate(space) if key in t.values]
        for t, _ in found
    ]
    shade = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1.0)
    drawn = LineCollection(lines, cmap="viridis", norm=shade, alpha=0.7, linewidths=1.2)
    drawn.set_array(scores)
    axes.add_collection(drawn)
    for at, key in enumerate(space):
        axes.axvline(at, color="black", linewidth=0.8)
        for place, text in marks[key].labels():
            axes.text(at, place, f" {text}", fontsize=7, va="center")
    axes.set_xticks(
        range(len(space)), [key if len(key) <= _LABEL else f"{key[:_LABEL]}." for key in space]
    )
    axes.set(yticks=[], xlim=(-0.2, len(space) - 0.5), ylim=(-0.04, 1.04))
    figure.colorbar(
        ScalarMappable(norm=shade, cmap="viridis"), ax=axes, label=record.definition.metrics[0]
    )
    return figure


class _Marks:
    """Where the values of a dimension are on an axis from 0 to 1."""

    def __init__(self, dimension: Dimension) -> None:
        self._dimension = dimension
        self._options = [repr(each) for each in dimension.options]

    def place(self, value: Scalar) -> float:
        if self._dimension.kind is Kind.CHOICE:
            return (self._options.index(repr(value)) + 0.5) / len(self._options)
        assert isinstance(value, int | float)
        low, high = self._dimension.low, self._dimension.high
        if self._dimension.kind is Kind.LOGUNIFORM:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def labels(self) -> list[tuple[float, str]]:
        if self._dimension.kind is Kind.CHOICE:
            step = -(-len(self._options) // _TICKS)
            shown = list(self._dimension.options)[::step]
            return [(self.place(each), str(each)[:_LABEL]) for each in shown]
        ends = (self._dimension.low, self._dimension.high)
        return [(float(at), f"{end:.4g}") for at, end in enumerate(ends)]


def _importance(record: SweepRecord, evaluator: str) -> "Figure":
    """A bar a key, for every metric."""
    told = [importance_of(record, metric=m, evaluator=evaluator) for m in record.definition.metrics]
    figure = _figure(7, 1.2 + len(told) * (0.8 + 0.3 * len(record.definition.space)))
    every: Any = figure.subplots(len(told), squeeze=False)
    for axes, one in zip(every.flat, told, strict=True):
        _bars(axes, one)
    return figure


def _bars(axes: "Axes", told: Importance) -> None:
    keys = list(told.shares)[::-1]
    axes.barh(keys, [told.shares[key] for key in keys], color=_BLUE)
    axes.set(xlim=(0, 1), xlabel="share")
    title = f"{told.metric}: {told.evaluator}, {told.num_trials} trials at epoch {told.epoch}"
    axes.set_title(title, fontsize=8)


def _front(record: SweepRecord, _: str) -> "Figure":
    """Every metric against the first; the trials that no other one beats are joined.

    Raises:
        NotFoundError: E5036, there is one metric only.
    """
    names = record.definition.metrics
    if len(names) < 2:
        raise NotFoundError("a front needs two metrics or more", code="E5036")
    found = _scored(record)
    best = {trial.number for trial in record.front}
    figure = _figure(7, 4.5 * (len(names) - 1))
    every: Any = figure.subplots(len(names) - 1, squeeze=False)
    for second, axes in enumerate(every.flat, 1):
        rest = [m for t, m in found if t.number not in best]
        own = sorted(((m[0], m[second]), t.number) for t, m in found if t.number in best)
        axes.scatter([m[0] for m in rest], [m[second] for m in rest], s=16, c=_GREY)
        axes.plot(*zip(*(at for at, _ in own), strict=True), color=_RED, marker="o")
        for at, number in own:
            axes.annotate(str(number), at, textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xlabel=_directed(record, 0), ylabel=_directed(record, second))
        axes.grid(alpha=0.3)
    return figure


def _directed(record: SweepRecord, at: int) -> str:
    word = "higher" if record.definition.modes[at] == "max" else "lower"
    return f"{record.definition.metrics[at]} ({word} is better)"


_PICTURES: dict[str, Callable[[SweepRecord, str], "Figure"]] = {
    "history": _history,
    "parallel": _parallel,
    "importance": _importance,
    "front": _front,
}
