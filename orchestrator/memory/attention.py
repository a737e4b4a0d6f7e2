"""Which kernel of scaled dot product attention a card runs: torch would ask the card itself.

The rules are those of torch's ATen/native/transformers/cuda/sdp_utils.cpp, in its order: flash,
then memory-efficient, then plain.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["card_attention"]

_HALF = (torch.float16, torch.bfloat16)
_FLASH_WIDTH = 256  # the widest head of the flash kernels


@contextmanager
def card_attention(*, has_flash: bool) -> Iterator[None]:
    """`F.scaled_dot_product_attention` of tensors on a card calls the kernel of that card.

    `has_flash` is true from compute capability 8.0 on. The kernels of cuDNN, which newer cards may
    take, keep the same tensors as flash.
    """
    original = functional.scaled_dot_product_attention

    def attention(  # noqa: PLR0913, PLR0917 - the signature of torch
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,  # noqa: FBT001, FBT002
        scale: float | None = None,
        enable_gqa: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        if query.device.type != "cuda":
            return original(
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
        if enable_gqa and key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        given = (query, key, value, attn_mask, dropout_p, is_causal, scale)
        if _flash_runs(query, key, value, attn_mask, has_flash=has_flash):
            return _flash(*given)
        if _efficient_runs(query, value):
            return _efficient(*given)
        return torch.ops.aten._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale
        )[0]

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _flash_runs(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, has_flash: bool
) -> bool:
    is_square = query.shape[-1] == key.shape[-1] == value.shape[-1]
    return (
        has_flash
        and mask is None
        and query.ndim == 4
        and query.dtype in _HALF
        and is_square
        and query.shape[-1] <= _FLASH_WIDTH
    )


def _efficient_runs(query: Tensor, value: Tensor) -> bool:
    """Rows have to be aligned to 16 bytes."""
    alignment = 16 // query.element_size()
    return (
        query.ndim == 4
        and query.dtype in (*_HALF, torch.float32)
        and query.shape[-1] % alignment == 0
        and value.shape[-1] % alignment == 0
    )


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,  # noqa: FBT001
    scale: float | None,
) -> Any:
    del mask
    width = query.shape[-1]
    scale = 1 / math.sqrt(width) if scale is None else scale
    missing = -width % 8
    if missing:
        query, key, value = (functional.pad(t, (0, missing)) for t in (query, key, value))
    found = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout, is_causal, scale=scale
    )[0]
    return found[..., :width] if missing else found


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,  # noqa: FBT001
    scale: float | None,
) -> Any:
    if mask is not None:
        if mask.dtype is torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, -math.inf)
        mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    needs_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_gradient, dropout, is_causal, scale=scale
    )[0]
