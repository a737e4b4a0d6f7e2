"""What agents of jobs with a batch of their own learn: a law of step times from what was tried.

Like the agents of Pollux (OSDI 2021, section 3.2). A pass takes time linear in the local batch;
synchronization is linear in the number of GPUs, on one node and on several apart. Until two numbers
of GPUs were tried it is taken for constant, until one was for that of the other kind, or nothing;
and a job may have at most twice the GPUs that were tried. With the law and the statistics of the
gradient that a job saw last, its agent knows the best batch of every width, and so its speed there.
Jobs of one application share what they have tried.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from orchestrator.simulation.pollux import Application, Moments, Shape, Split, StepTime
from orchestrator.types import Seconds

__all__ = ["StepLaw"]

_CANDIDATES = 50  # batches looked at between the least and the largest, in geometric steps
_MORE = 2  # times the GPUs that were tried


@dataclass(slots=True)
class StepLaw:
    """Step times of one application, as far as they were tried."""

    app: Application
    version: int = 0  # grows with what is known
    widest: int = 0  # GPUs that were tried
    _passes: dict[int, Seconds] = field(default_factory=dict)  # by local batch, without sync
    _syncs: dict[bool, dict[int, Seconds]] = field(default_factory=dict)  # by GPUs; many nodes?
    _rates: dict[tuple[int, Shape, Moments], float] = field(default_factory=dict)

    def tried(self, shape: Shape, local_batch: int, took: StepTime) -> None:
        """A job has trained on these GPUs per node."""
        syncs, num_gpus = self._syncs.setdefault(len(shape) > 1, {}), sum(shape)
        is_new = local_batch not in self._passes or (num_gpus > 1 and num_gpus not in syncs)
        self.widest = max(self.widest, num_gpus)
        self._passes[local_batch] = took.step - took.sync
        if num_gpus > 1:
            syncs[num_gpus] = took.sync
        if is_new:
            self.version += 1
            self._rates.clear()

    @property
    def most(self) -> int:
        """The widest that a job may be for now."""
        return max(1, _MORE * self.widest)

    def rate(self, shape: Shape, moments: Moments) -> float:
        """Progress a second with the best batch; 0.0 while nothing was tried."""
        key = (self.version, shape, moments)
        if key not in self._rates:
            self._rates[key] = self._rate(shape, moments)
        return self._rates[key]

    def _rate(self, shape: Shape, moments: Moments) -> float:
        trained, local, extra = _batches(self.app, sum(shape))
        if not len(trained) or not self._passes:
            return 0.0
        one_pass = _line(self._passes, local)
        seconds = one_pass * (extra + 1) + self._sync(shape)
        scale = trained / self.app.least_batch
        gains = (moments.var + moments.sqr) / (moments.var / scale + moments.sqr)
        return float(np.max(gains / seconds))

    def _sync(self, shape: Shape) -> Seconds:
        num_gpus = sum(shape)
        if num_gpus == 1:
            return 0.0
        own, other = (self._syncs.get(each) for each in (len(shape) > 1, len(shape) == 1))
        return float(_line(own or other or {num_gpus: 0.0}, np.asarray(float(num_gpus))))


def _line(points: Mapping[int, Seconds], at: Any) -> Any:
    """Between what was tried, linear; beyond it, by the line that fits all of it, never falling."""
    xs = np.asarray(sorted(points), dtype=float)
    ys = np.asarray([points[int(x)] for x in xs])
    if len(xs) == 1:
        return at * 0.0 + ys[0]
    slope = max(float(np.polyfit(xs, ys, 1)[0]), 0.0)
    beyond = np.maximum(at - xs[-1], 0.0) + np.minimum(at - xs[0], 0.0)
    return np.maximum(np.interp(at, xs, ys) + slope * beyond, ys.min() * 0.1)


@cache
def _batches(app: Application, num_gpus: int) -> tuple[Any, Any, Any]:
    """What is trained of each batch that fits, its local batch, and extra passes."""
    least = max(app.least_batch, app.least_local * num_gpus)
    if least > app.most_batch:
        return np.empty(0), np.empty(0), np.empty(0)
    sizes = sorted({math.ceil(each) for each in np.geomspace(least, app.most_batch, _CANDIDATES)})
    splits: list[Split] = [app.split(min(size, app.most_batch), num_gpus) for size in sizes]
    fits = [each for each in splits if each.local_batch >= app.least_local]
    local, extra = (np.asarray(each, dtype=float) for each in zip(*fits, strict=True))
    return num_gpus * local * (extra + 1), local, extra
