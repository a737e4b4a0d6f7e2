"""Made-up searches with a border: what settings need, and how good they are, drawn by a seed.

The space is that of a detector: model, picture size, batch, and three rates. What a step needs
grows with the model, the pixels and the batch, as it does where a step is not cut; `capacity`
leaves room for two of five settings drawn by chance.

How good settings are is drawn anew for each seed, without looking at the border: every key has an
optimum somewhere in its range, the larger model wants other pictures than the smaller one, and the
best rate moves with the batch and with the model. So the best of all settings lies beyond the
border as often as settings do, and else inside; then the best feasible ones lie anywhere.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

from orchestrator.sweep.space import Space, Values, choice, integer, loguniform, sample, uniform

__all__ = ["SPACE", "Landscape", "capacity", "clipped", "fits", "need"]

_GIB = 1 << 30
_MODELS = ("n", "s", "m", "l", "x")
_BATCHES = (4, 8, 16, 32, 64)
_FIXED = dict(zip(_MODELS, (0.3, 0.5, 0.9, 1.4, 2.1), strict=True))  # GiB: weights and their state
_EACH = dict(zip(_MODELS, (0.18, 0.30, 0.52, 0.72, 1.0), strict=True))  # GiB a picture of 640
_SHARE_THAT_FITS = 0.4
_DRAWN = 20_000
SPACE: Space = {
    "model": choice(_MODELS),
    "imgsz": integer(256, 1280, 32),
    "batch": choice(_BATCHES),
    "lr0": loguniform(1e-5, 1e-1),
    "momentum": uniform(0.6, 0.99),
    "weight_decay": loguniform(1e-6, 1e-2),
}


def need(values: Values) -> int:
    """Bytes of a step: those of the model, and of each picture by its pixels."""
    model = str(values["model"])
    pixels = (_number(values, "imgsz") / 640) ** 2
    return int(_GIB * (_FIXED[model] + _EACH[model] * _number(values, "batch") * pixels))


@cache
def capacity() -> int:
    """Bytes of the card: so many that 40 % of settings drawn by chance fit."""
    chance = random.Random(0)
    needs = sorted(need(sample(SPACE, chance)) for _ in range(_DRAWN))
    return needs[int(_SHARE_THAT_FITS * _DRAWN)]


def fits(values: Values) -> bool:
    """Whether a step fits the card."""
    return need(values) <= capacity()


def clipped(values: Values) -> Values:
    """What a person makes of it: half the batch, then smaller pictures, then smaller models."""
    found = dict(values)
    while not fits(found):
        batch, imgsz = _number(found, "batch"), _number(found, "imgsz")
        if batch > _BATCHES[0]:
            found["batch"] = int(batch) // 2
        elif imgsz > SPACE["imgsz"].low:
            found["imgsz"] = int(imgsz) - SPACE["imgsz"].step
        else:
            found["model"] = _MODELS[_MODELS.index(str(found["model"])) - 1]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """How good settings are: 1 at the optimum, less with the distance from it.

    Positions are parts of a key's range, from 0 to 1, in logarithms but for the momentum and the
    model; `curvatures` are of model, imgsz, batch, lr0, momentum and weight_decay.
    """

    model: float
    imgsz: float
    batch: float
    rate: float
    momentum: float
    decay: float
    curvatures: tuple[float, ...]
    rate_by_batch: float  # how far the best rate moves over the range of batches
    rate_by_model: float
    together: float  # how much a larger model wants larger pictures, from 0 to 1

    @classmethod
    def drawn(cls, seed: int) -> "Landscape":
        """The landscape of a seed."""
        chance = random.Random(f"{seed}/landscape")
        return cls(
            model=chance.random(),
            imgsz=chance.random(),
            batch=chance.random(),
            rate=chance.uniform(0.25, 0.75),
            momentum=chance.uniform(0.3, 0.95),
            decay=chance.random(),
            curvatures=tuple(
                each * chance.uniform(0.5, 2.0) for each in (1.0, 1.0, 0.5, 4.0, 0.7, 0.4)
            ),
            rate_by_batch=chance.uniform(0.1, 0.3),
            rate_by_model=chance.uniform(0.0, 0.2),
            together=chance.uniform(0.0, 0.7),
        )

    def score(self, values: Values) -> float:
        """Between 0 and 1."""
        model = _MODELS.index(str(values["model"])) / (len(_MODELS) - 1)
        batch = _part(_number(values, "batch"), _BATCHES[0], _BATCHES[-1])
        rate = self.rate + self.rate_by_batch * (batch - 0.5) - self.rate_by_model * (model - 0.5)
        momentum = (_number(values, "momentum") - 0.6) / 0.39
        off = (
            model - self.model,
            _part(_number(values, "imgsz"), 256, 1280) - self.imgsz,
            batch - self.batch,
            _part(_number(values, "lr0"), 1e-5, 1e-1) - rate,
            momentum - self.momentum,
            _part(_number(values, "weight_decay"), 1e-6, 1e-2) - self.decay,
        )
        loss = sum(c * d * d for c, d in zip(self.curvatures, off, strict=True))
        crossed = math.sqrt(self.curvatures[0] * self.curvatures[1])
        return math.exp(-loss + 2.0 * self.together * crossed * off[0] * off[1])


def _part(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _number(values: Values, key: str) -> float:
    value = values[key]
    assert isinstance(value, int | float)
    return float(value)
