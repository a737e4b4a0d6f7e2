"""Which of two ways is faster, by turns: kept apart from the noise of the machine."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.types import Seconds

__all__ = ["Verdict", "compared", "verdict_of"]

_LEAST_GAIN = 0.02  # what is won below is not worth another way of computing
_TO_DEVIATION = 1.4826  # of a normal distribution, per median absolute deviation
_OF_MEDIAN = math.sqrt(math.pi / 2)  # standard error of a median, per that of a mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many times as fast the other way was, and how sure that is.

    `noise` is twice the standard error of the median of the logarithms of the rounds' ratios,
    their scatter taken from the median absolute deviation: a round that another program spoilt
    moves neither much.
    """

    ratio: float
    noise: float
    num_rounds: int

    @property
    def is_faster(self) -> bool:
        """True when the other way is faster by more than the noise, and by 2 % at least."""
        return math.log(self.ratio) > max(self.noise, math.log1p(_LEAST_GAIN))

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times as fast, noise {self.noise:.2f}, {self.num_rounds} rounds"


def compared(
    base: Callable[[], object],
    other: Callable[[], object],
    *,
    rounds: int,
    clock: Callable[[], Seconds] = time.perf_counter,
) -> Verdict:
    """Run both ways once a round, in an order that alternates, after one run of each unwatched.

    Args:
        base: The way things are done by default; returns when it is done.
        other: The way that might be faster.
        rounds: At least 3.
        clock: Monotonic seconds.
    """
    base()
    other()
    times: list[tuple[Seconds, Seconds]] = []
    for number in range(rounds):
        took = {}
        for way in (base, other) if number % 2 else (other, base):
            begin = clock()
            way()
            took[way] = clock() - begin
        times.append((took[base], took[other]))
    return verdict_of(times)


def verdict_of(times: list[tuple[Seconds, Seconds]]) -> Verdict:
    """What rounds of (base, other) say; at least 3 of them.

    Raises:
        ValueError: Fewer.
    """
    if len(times) < 3:
        raise ValueError(f"{len(times)} rounds tell nothing about their noise")
    logs = [math.log(base / other) for base, other in times]
    middle = statistics.median(logs)
    scatter = _TO_DEVIATION * statistics.median(abs(value - middle) for value in logs)
    noise = 2 * _OF_MEDIAN * scatter / math.sqrt(len(logs))
    return Verdict(ratio=math.exp(middle), noise=noise, num_rounds=len(times))
