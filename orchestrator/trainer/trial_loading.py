"""How many loading processes a training needs: the fewest with which no step waits for pictures."""

import time
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from orchestrator.trainer.loading import batches, close
from orchestrator.types import Seconds

__all__ = ["fewest_workers", "parts_of", "seconds_of_batch"]

_BATCHES = 12  # that a loader is timed with, besides those that it has ready
_STEPS = 3


def parts_of(num_samples: int, size: int, workers: int) -> list[list[int]]:
    """Numbers of samples, batch by batch, for a loader to be timed with; they repeat."""
    count = (_BATCHES + 2 * workers) * size
    numbers = [number % num_samples for number in range(count)]
    return [numbers[at : at + size] for at in range(0, count, size)]


def seconds_of_batch(loader: DataLoader[Any]) -> Seconds:
    """Seconds for a batch once the loader of `parts_of` runs, those that it had ready left out."""
    begin, ready, count = 0.0, 2 * loader.num_workers, len(loader)
    for number, _ in enumerate(batches(loader)):
        if number == ready:
            begin = time.perf_counter()
    seconds = (time.perf_counter() - begin) / (count - ready - 1)
    close(loader)
    return seconds


def fewest_workers(
    step: Callable[[], object], loading: Callable[[int], Seconds], limit: int
) -> tuple[int, str]:
    """The fewest loading processes with which a step does not wait, or the fastest number.

    Args:
        step: Takes one optimizer step, or the forward and backward of one.
        loading: Seconds for a batch with so many processes.
        limit: The most that the config allows.

    Returns:
        The number, and what was measured in words.
    """
    step()
    begin = time.perf_counter()
    for _ in range(_STEPS):
        step()
    wanted = (time.perf_counter() - begin) / _STEPS
    took: dict[int, Seconds] = {}
    for number in sorted({0, 1, 2, 4, limit}):
        if number <= limit:
            took[number] = min(loading(number) for _ in range(2))
            if took[number] < wanted:
                break
    best = min(took, key=lambda number: (took[number] >= wanted, took[number]))
    told = ", ".join(f"{n}: {1000 * seconds:.0f} ms" for n, seconds in took.items())
    return best, f"a batch by number of workers {told}; a step takes {1000 * wanted:.0f} ms"
