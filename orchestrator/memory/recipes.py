"""How to make an operator's result again: what decides it, and the tensors that it consists of."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from orchestrator.memory.rules import RULES, copied
from orchestrator.memory.views import VIEWS

__all__ = [
    "FRESH",
    "INPUT",
    "VIEW",
    "CannotKeepError",
    "key_of",
    "key_of_options",
    "recipe_by_rule",
    "recipe_of",
]

VIEW, INPUT, FRESH = range(3)
_COPY = torch.ops.aten._to_copy.default
_CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.layout, torch.device)


class CannotKeepError(Exception):
    """A result depends on more than what can be compared."""


def key_of(values: Sequence[Any], tensors: list[Any]) -> tuple[Any, ...]:
    """What decides a result; adds the tensors among the values to the list.

    Raises:
        CannotKeepError: Something else does, too.
    """
    key: list[Any] = []
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            if value.constant is not None or value.dtype.is_complex or "known" in value.__dict__:
                raise CannotKeepError
            tensors.append(value)
            place = (value.storage_offset(), value.fake_device)
            key.append((value.shape, value.stride(), value.dtype, *place))
        elif kind in _CONSTANTS or kind is torch.memory_format:
            key.append((kind, value))
        elif kind is list or kind is tuple:
            key.append(key_of(value, tensors))
        else:
            raise CannotKeepError
    return tuple(key)


def key_of_options(values: dict[str, Any], tensors: list[Any]) -> tuple[Any, ...]:
    """The same of arguments by name."""
    if not values:
        return ()
    return (*values, *key_of(tuple(values.values()), tensors))


def recipe_of(found: Any, tensors: Sequence[Any]) -> Any:
    """How to make the result again, or None if that is not safe."""
    by_storage = {t.untyped_storage()._cdata: i for i, t in enumerate(tensors)}
    if isinstance(found, list | tuple):
        if not all(value is None or type(value) is FakeTensor for value in found):
            return None
        outputs = [None if v is None else _output_of(v, tensors, by_storage) for v in found]
        fresh = [
            value.untyped_storage()._cdata
            for value, output in zip(found, outputs, strict=True)
            if isinstance(output, tuple) and output[0] == FRESH
        ]
        if False in outputs or len(set(fresh)) != len(fresh):
            return None
        return (type(found), outputs)
    if type(found) is not FakeTensor:
        return None
    output = _output_of(found, tensors, by_storage)
    return (None, output) if output else None


def recipe_by_rule(
    func: Any, tensors: Sequence[Any], args: Sequence[Any], options: Mapping[str, Any]
) -> Any:
    """The same without the result, of an operator that has a rule; None where it does not hold."""
    if func is _COPY and tensors:
        return _of_copy(tensors[0], options)
    if options or not tensors:
        return None
    first = tensors[0]
    if func in VIEWS:
        place = VIEWS[func](first, args)
        return None if place is None else (None, (VIEW, 0, *place, first.dtype, first.fake_device))
    outputs = [
        None if made is None else (FRESH, -1, made[0], made[1], 0, made[2], first.fake_device)
        for made in (RULES[func](tensors, args) if func in RULES else ())
    ]
    return (tuple, outputs) if len(outputs) > 1 else next(((None, each) for each in outputs), None)


def _of_copy(tensor: Any, options: Mapping[str, Any]) -> Any:
    copy = copied(tensor, options)
    if copy is None:
        return None
    (shape, stride, dtype), device = copy
    return None, (FRESH, -1, shape, stride, 0, dtype, device)


def _output_of(value: Any, tensors: Sequence[Any], by_storage: dict[int, int]) -> Any:
    if value.constant is not None or value.dtype.is_complex or value.is_neg():
        return False
    for index, tensor in enumerate(tensors):
        if value is tensor:
            return (INPUT, index, None, None, None, None, None)
    offset, device = value.storage_offset(), value.fake_device
    shape, stride = tuple(value.shape), value.stride()
    index = by_storage.get(value.untyped_storage()._cdata, -1)
    if index >= 0:
        return (VIEW, index, shape, stride, offset, value.dtype, device)
    size = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    num_bytes = size * value.element_size() if value.numel() else 0
    if offset or num_bytes != value.untyped_storage().nbytes():
        return False
    return (FRESH, -1, shape, stride, 0, value.dtype, device)
