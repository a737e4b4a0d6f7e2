"""Operators whose results depend on data, and operators over lists of tensors, on fake tensors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from orchestrator.memory.answers import Answers

__all__ = ["ASKING", "SPECIAL", "is_on_lists", "on_lists"]

aten = torch.ops.aten


def _integers(size: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(size, dtype=torch.int64, device=like.device)


def _nonzero(answers: Answers, func: Any, args: Any, kwargs: Any) -> Tensor:
    del func, kwargs
    (mask,) = args
    return _integers((answers.rows(mask), mask.dim()), mask)


def _masked_select(answers: Answers, func: Any, args: Any, kwargs: Any) -> Tensor:
    del func, kwargs
    values, mask = args
    return torch.empty((answers.rows(mask),), dtype=values.dtype, device=values.device)


def _index(answers: Answers, func: Any, args: Any, kwargs: Any) -> Any:
    """Masks among the indices become what their `nonzero` would be, as in the real operator."""
    values, indices, *rest = args
    found: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
            rows = answers.rows(index)
            found += [_integers((rows,), index) for _ in range(index.dim())]
        else:
            found.append(index)
    out = func(values, found, *rest, **kwargs)
    known = getattr(values, "known", None)
    if known is not None and func is aten.index.Tensor:
        out.known = known
    return out


def _scalar(answers: Answers, func: Any, args: Any, kwargs: Any) -> Any:
    (tensor,) = args
    if getattr(tensor, "constant", None) is not None:
        return func(tensor, **kwargs)
    return answers.number(tensor)


def _unique(answers: Answers, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """No value occurs twice, but for the image that a box belongs to: there, each does."""
    del func, kwargs
    values, *flags = args
    is_owner = values.numel() == answers.batch * answers.per_image
    different = answers.batch if is_owner else values.numel()
    with_counts = len(flags) > 2 and flags[2]
    with_inverse = len(flags) > 1 and flags[1]
    counts = _integers((different if with_counts else 0,), values)
    if is_owner:
        counts.known = answers.most  # type: ignore[attr-defined]
    inverse = _integers(tuple(values.shape) if with_inverse else (0,), values)
    return torch.empty((different,), dtype=values.dtype, device=values.device), inverse, counts


def _bincount(answers: Answers, func: Any, args: Any, kwargs: Any) -> Tensor:
    del func
    values = args[0]
    bins = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
    if not bins:
        raise NotImplementedError("bincount without minlength depends on data")
    counts = _integers((bins,), values)
    counts.known = answers.most_of(values.numel(), bins)  # type: ignore[attr-defined]
    return counts


def _known(answers: Answers, func: Any, args: Any, kwargs: Any) -> Any:
    """A number that is known stays so through the operators that lead to it."""
    del answers
    out = func(*args, **kwargs)
    known = getattr(args[0], "known", None)
    if known is not None:
        for value in out if isinstance(out, list | tuple) else (out,):
            value.known = known
    return out


_Handler: TypeAlias = Callable[[Answers, Any, Any, Any], Any]

ASKING: Mapping[Any, _Handler] = {
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.index.Tensor: _index,
    aten.index_put_.default: _index,
    aten.index_put.default: _index,
    aten._local_scalar_dense.default: _scalar,
    aten._unique2.default: _unique,
    aten.bincount.default: _bincount,
}
"""Operators that ask the data."""

SPECIAL: Mapping[Any, _Handler] = {
    **ASKING,
    aten.max.default: _known,
    aten.unbind.int: _known,
    aten.select.int: _known,
    aten._to_copy.default: _known,
}
"""Those, and operators through which a number that is known stays so."""


def is_on_lists(func: Any) -> bool:
    """Whether an operator runs over lists of tensors: those of optimizers and gradient scalers."""
    name = func._schema.name
    is_update = name.startswith("aten::_fused_") and name.endswith("_")  # such as _fused_adamw_
    return is_update or name.startswith(("aten::_foreach_", "aten::_amp_"))


class _Empty(Protocol):
    def __call__(self, like: Tensor, *, is_number: bool) -> Tensor: ...


def on_lists(func: Any, args: Sequence[Any], empty: _Empty) -> Any:
    """An operator over a list: in place it makes nothing, else one result an element, by `empty`.

    The list kernels of CUDA (ATen/native/cuda/ForeachFunctors.cuh) have no temporaries.
    """
    name = func._schema.name.removeprefix("aten::")
    if name.startswith("_amp_foreach"):
        args[1].known = 0  # nothing infinite was found
        return None
    if name.startswith("_amp_"):
        return args[0]
    for tensor in args[0]:
        tensor.constant = None  # what it was is no longer true
    if not func._schema.returns:
        return None
    is_number = name in ("_foreach_norm", "_foreach_max")
    return [empty(tensor, is_number=is_number) for tensor in args[0]]
