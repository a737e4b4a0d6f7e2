"""Which errors mean that the memory of a card, or of the host, ran out."""

from collections.abc import Iterator

import torch

__all__ = ["is_card_out_of_memory", "is_host_out_of_memory"]

# Texts of RuntimeErrors of CUDA, cuBLAS and cuDNN when an allocation, a handle or a workspace finds
# no memory. ultralytics retries on the same four (engine/trainer.py, 8.4).
_CARD_TEXTS = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_internal_error",
    "unable to find an engine",
)
_HOST_TEXTS = ("defaultcpuallocator",)  # c10/core/impl/alloc_cpu.cpp


def is_card_out_of_memory(error: BaseException) -> bool:
    """True when the error, or one that it was raised from, means that a card's memory ran out."""
    return any(
        isinstance(link, torch.OutOfMemoryError) or _says(link, _CARD_TEXTS)
        for link in _causes(error)
    )


def is_host_out_of_memory(error: BaseException) -> bool:
    """True when the error, or one that it was raised from, means that host memory ran out."""
    return any(isinstance(link, MemoryError) or _says(link, _HOST_TEXTS) for link in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(text in message for text in texts)
