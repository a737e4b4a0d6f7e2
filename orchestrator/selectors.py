"""Which labels a node must have: conditions as Ray's own label selectors write them."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

__all__ = ["Selector", "admits", "is_label", "is_met", "normal", "selector_text", "values_in"]

Selector: TypeAlias = tuple[tuple[str, str], ...]  # label and condition, sorted by label

_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"  # what Ray takes as a value
_LABEL_VALUE = re.compile(_VALUE)
_KEY = re.compile(rf"(?:[a-z0-9.-]+/)?{_VALUE}")
_ONE = re.compile(rf"(!?)\s*({_VALUE})")
_SEVERAL = re.compile(rf"(!?)in\(\s*({_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)")


def is_label(key: str, value: str) -> bool:
    """True for a label that Ray takes: letters, digits, dashes, dots, underscores; at most 63."""
    return bool(_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))


def normal(key: str, condition: str) -> str:
    """A condition in the one form in which equal ones are equal texts.

    Args:
        key: The label.
        condition: `VALUE`, `!VALUE`, `in(VALUE, ...)` or `!in(VALUE, ...)`.

    Raises:
        ValueError: It is none of these; says what is wrong.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r:.80} is no label: letters, digits, '-', '.', '_', at most 63")
    match = _ONE.fullmatch(condition.strip()) or _SEVERAL.fullmatch(condition.strip())
    if match is None:
        raise ValueError(f"{condition!r:.80} is none of VALUE, !VALUE, in(A,B), !in(A,B)")
    values = sorted({value.strip() for value in match[2].split(",")})
    return match[1] + (values[0] if len(values) == 1 else f"in({','.join(values)})")


def is_met(condition: str, value: str | None) -> bool:
    """True when a label with this value meets the condition; None is a node without the label.

    As Ray has it, a node without the label meets every `!` and nothing else.
    """
    is_negative, values = _read(condition)
    return (value in values) is not is_negative


def admits(selector: Selector, labels: Mapping[str, str]) -> bool:
    """True when labels meet all conditions."""
    return all(is_met(condition, labels.get(key)) for key, condition in selector)


def values_in(condition: str) -> tuple[str, ...]:
    """The values that a condition names, sorted."""
    return tuple(sorted(_read(condition)[1]))


def selector_text(selector: Selector) -> str:
    """Conditions in words: "zone=a, disk=!slow"."""
    return ", ".join(f"{key}={condition}" for key, condition in selector)


@lru_cache(maxsize=1024)
def _read(condition: str) -> tuple[bool, frozenset[str]]:
    """Whether a condition in its normal form is a negative one, and the values that it names."""
    bare = condition.removeprefix("!")
    inside = bare[3:-1] if bare.startswith("in(") and bare.endswith(")") else bare
    return bare != condition, frozenset(inside.split(","))
