"""Out of memory is recognised by class and by the texts that libraries use for it."""

import pytest
import torch

from orchestrator.device.oom import is_card_out_of_memory, is_host_out_of_memory

CARD = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("Unable to find an engine to execute this computation"),
]
HOST = [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
OTHER = [
    ValueError("out of memory"),
    OSError("out of memory"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", CARD, ids=str)
def test_the_card_is_out_of_memory(error: BaseException) -> None:
    assert is_card_out_of_memory(error)
    assert not is_host_out_of_memory(error)


@pytest.mark.parametrize("error", HOST, ids=repr)
def test_the_host_is_out_of_memory(error: BaseException) -> None:
    assert is_host_out_of_memory(error)
    assert not is_card_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_are_neither(error: BaseException) -> None:
    assert not is_card_out_of_memory(error)
    assert not is_host_out_of_memory(error)


def test_the_cause_counts_and_a_circle_of_causes_ends() -> None:
    outer, inner = RuntimeError("the step failed"), torch.OutOfMemoryError("out of memory")
    outer.__cause__ = inner
    assert is_card_out_of_memory(outer)
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_card_out_of_memory(first)
