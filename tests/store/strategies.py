"""Hypothesis strategies for every frozen value, built from the type hints of its fields."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from orchestrator import messages
from orchestrator.messages import AttemptEvent, Event
from orchestrator.types import BatchPlan, Part, QueueRule

__all__ = ["EVENT_TYPES", "events", "values"]

EVENT_TYPES: tuple[type[Event], ...] = tuple(
    kind
    for name in messages.__all__
    if isinstance(kind := getattr(messages, name), type)
    and issubclass(kind, Event)
    and kind not in (Event, AttemptEvent)
)

_PRIMITIVES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(-(2**70), 2**70),
    float: st.floats(),
    bool: st.booleans(),
    type(None): st.none(),
}


@st.composite
def _batch_plans(draw: st.DrawFn) -> BatchPlan:
    world, rank_batch = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    return BatchPlan(
        effective_batch=world * rank_batch,
        world_size=world,
        micro_batch=draw(st.integers(1, rank_batch)),
    )


@st.composite
def _parts(draw: st.DrawFn) -> Part:
    counts = [draw(st.integers(0, 9)) for _ in range(2)]
    fold, stage = (draw(st.integers(min(1, count), count)) for count in counts)
    texts = [draw(st.text(max_size=12)) for _ in range(3)]
    return Part(
        series=texts[0],
        config=texts[1],
        fold=fold,
        num_folds=counts[0],
        stage=stage,
        num_stages=counts[1],
        stage_name=texts[2],
    )


_above_zero = st.floats(min_value=1e-6, max_value=1e9)
_rules = st.builds(
    QueueRule,
    name=st.text(max_size=12),
    weight=_above_zero,
    max_gpus=st.none() | _above_zero,
)


_WITH_RULES: dict[Any, st.SearchStrategy[Any]] = {
    BatchPlan: _batch_plans(),
    Part: _parts(),
    QueueRule: _rules,
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a type hint."""
    if isinstance(hint, NewType):
        return values(hint.__supertype__)
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    if hint in _WITH_RULES:
        return _WITH_RULES[hint]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        named = {field.name: values(hints[field.name]) for field in fields(hint)}
        return st.fixed_dictionaries(named).map(lambda found: hint(**found))  # type: ignore[operator]  # hint is a class here
    return _generic(hint)


def _generic(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    assert isinstance(hint, type)
    assert issubclass(hint, Enum), hint
    return st.sampled_from(hint)


def events() -> st.SearchStrategy[Event]:
    """Any event of any type."""
    return st.one_of([values(kind) for kind in EVENT_TYPES])
