"""From values that cannot run back towards the best that can: the border is worth trying."""

import math
from collections.abc import Callable

from orchestrator.sweep.space import Dimension, Kind, Space, Values, is_active
from orchestrator.types import Scalar

__all__ = ["between", "retreat"]

_PARTS = (0.75, 0.5, 0.25)  # of the way from the best to what was refused; each has to be planned


def retreat(
    space: Space, refused: Values, best: Values, fits: Callable[[Values], bool]
) -> Values | None:
    """The farthest of a few points between the best trial and a refused suggestion that fits.

    Where more is better as long as it fits, the best is at the border, and a model that is told
    only what failed there keeps away from it.

    Args:
        space: Of both.
        refused: What cannot run.
        best: What has the best score so far.
        fits: Whether values can run.
    """
    for part in _PARTS:
        values = between(space, best, refused, part)
        if values != dict(best) and fits(values):
            return values
    return None


def between(space: Space, near: Values, far: Values, part: float) -> dict[str, Scalar]:
    """Values on the way from `near` to `far`; choices that are no numbers are those of `near`."""
    found: dict[str, Scalar] = {}
    for key, dimension in space.items():
        if not is_active(dimension, found):
            continue
        if key not in near or key not in far:
            found[key] = near[key] if key in near else far.get(key, _first(dimension))
        else:
            found[key] = _mixed(dimension, near[key], far[key], part)
    return found


def _mixed(dimension: Dimension, near: Scalar, far: Scalar, part: float) -> Scalar:
    if not (_is_number(near) and _is_number(far)):
        return near
    assert isinstance(near, int | float)
    assert isinstance(far, int | float)
    if dimension.kind is Kind.LOGUNIFORM:
        mixed = math.exp(math.log(near) + part * (math.log(far) - math.log(near)))
    else:
        mixed = near + part * (far - near)
    if dimension.kind is Kind.INTEGER:
        steps = round((mixed - dimension.low) / dimension.step)
        return int(dimension.low) + steps * dimension.step
    if dimension.kind is Kind.CHOICE:
        numbers = [each for each in dimension.options if _is_number(each)]
        return min(numbers, key=lambda each: abs(float(str(each)) - mixed))
    return min(max(mixed, dimension.low), dimension.high)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(dimension: Dimension) -> Scalar:
    return dimension.options[0] if dimension.options else dimension.low
