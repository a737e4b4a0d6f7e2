"""Helpers for notebooks: what each GPU holds, giving it back, and what a function took."""

import functools
import gc
import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["clear_gpu_memory", "monitor_gpu_memory", "print_gpu_memory"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_GIB = 1 << 30
_NO_GPU = "no GPU: torch sees none here, so nothing is held on one\n"


def print_gpu_memory() -> None:
    """Print a line for each GPU: total, allocated, reserved and free GiB, all as now.

    Allocated are live tensors of this process, reserved what PyTorch took for them with its
    cache; free is what the driver has left, whoever holds the rest.
    """
    sys.stdout.write(_table())


def clear_gpu_memory() -> None:
    """Give back what nothing refers to any more, on every GPU, and print what is held then.

    Tensors that a variable still names stay: delete the variable first. In a notebook the last
    results (`_`, `Out[3]`) and the last error's traceback are such variables.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            with torch.cuda.device(index):
                torch.cuda.empty_cache()
    sys.stdout.write(_table())


def monitor_gpu_memory(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function: after each call a line tells what it took on every GPU.

    Told are the peak of live tensors while it ran, what it left behind, and its seconds. The
    line comes as well when the function raises.
    """

    @functools.wraps(function)
    def measured(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        import torch

        has_gpu = torch.cuda.is_available()
        indexes = range(torch.cuda.device_count() if has_gpu else 0)
        before = {index: torch.cuda.memory_allocated(index) for index in indexes}
        for index in indexes:
            torch.cuda.reset_peak_memory_stats(index)
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            for index in indexes:
                torch.cuda.synchronize(index)
            seconds = time.perf_counter() - begin
            lines = [
                f"GPU {index}: peak {torch.cuda.max_memory_allocated(index) / _GIB:.2f} GiB,"
                f" {(torch.cuda.memory_allocated(index) - before[index]) / _GIB:+.2f} GiB after it"
                for index in indexes
            ]
            told = "; ".join(lines) or _NO_GPU.strip()
            sys.stdout.write(f"{function.__name__}: {seconds:.2f} s; {told}\n")

    return measured


def _table() -> str:
    import torch

    if not torch.cuda.is_available():
        return _NO_GPU
    lines = [f"{'GPU':<32} {'total':>7} {'alloc.':>7} {'reserv.':>7} {'free':>7}  GiB"]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"{index} {torch.cuda.get_device_name(index)}"
        held = (torch.cuda.memory_allocated(index), torch.cuda.memory_reserved(index))
        numbers = " ".join(f"{value / _GIB:7.2f}" for value in (total, *held, free))
        lines.append(f"{name:<32.32} {numbers}")
    return "\n".join(lines) + "\n"
