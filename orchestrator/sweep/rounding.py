"""Predictions that trials share: the boxes of a batch are rounded up before memory is traced."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, log2

from orchestrator.memory.predict import Predictor
from orchestrator.plan.footprint import Footprint
from orchestrator.plan.workload import Labels, Workload
from orchestrator.types import Bytes

__all__ = ["RoundedLabels", "rounded"]

_LEAST = 64


class RoundedLabels:
    """Implements Predictor around another one.

    How many boxes a batch has follows from its size and from mosaic, mixup and the like, which a
    sweep draws anew for each trial; each new number would be traced for seconds. Here it is rounded
    up to a power of two, and to 64 at least, so that a whole sweep has one or two of them. The
    demand is never less for it, and little more: 64 boxes weigh little beside the activations.

    Args:
        inner: Says what steps demand.
    """

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner

    def footprints(self, asked: Sequence[tuple[Workload, Sequence[int]]]) -> list[Footprint]:
        """The footprint of each workload with its labels rounded up; raises as the inner one."""
        return self._inner.footprints([(_shared(each), sizes) for each, sizes in asked])

    def breakdown(
        self, workload: Workload, micro_batch: int
    ) -> tuple[Mapping[str, Bytes], Mapping[str, Bytes]]:
        """What holds the bytes at the peak; raises as the inner one."""
        return self._inner.breakdown(_shared(workload), micro_batch)


def rounded(labels: Labels) -> Labels:
    """Labels with the most and the mean boxes of an image rounded up; without boxes, the same."""
    return replace(labels, most=int(_power(labels.most)), mean=_power(labels.mean))


def _shared(workload: Workload) -> Workload:
    labels = workload.labels
    return workload if labels is None else replace(workload, labels=rounded(labels))


def _power(value: float) -> float:
    return max(_LEAST, 2.0 ** ceil(log2(value))) if value > 0 else 0.0
