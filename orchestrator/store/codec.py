"""Events and the frozen values inside them to JSON text and back, strictly and without loss.

The JSON is strict: a float that JSON cannot say (NaN and the infinities) becomes
``{"$float": "nan"}``. Every field is written; a field that is missing takes the default of its
class when it has one, so a field with a default can be added without a new version.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from orchestrator import messages
from orchestrator.errors import StoreError
from orchestrator.messages import AttemptEvent, Event
from orchestrator.store.forms import Plain, UnfitError, form_of

__all__ = ["VERSION", "decode", "encode", "from_plain", "to_plain"]

VERSION = 1

_Value = TypeVar("_Value")


def encode(event: Event) -> str:
    """Write an event as one line of JSON: its type's name, the codec's version and its fields.

    Raises:
        StoreError: a value is not of the type that its field declares (E5010).
    """
    name = type(event).__name__
    if _event_types().get(name) is not type(event):
        raise StoreError(f"{name} is not an event that can be recorded", code="E5010")
    return json.dumps(
        {"type": name, "version": VERSION, "body": to_plain(event)},
        allow_nan=False,
        separators=(",", ":"),
    )


def decode(text: str) -> Event:
    """Read what `encode` wrote.

    Raises:
        StoreError: not JSON, an unknown type, key or version, or a value of the wrong type (E5010).
    """
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            "a record is not the JSON of an event", code="E5010", why=(str(error), text[:120])
        ) from error
    if not isinstance(record, dict) or set(record) != {"type", "version", "body"}:
        raise StoreError(
            "a record lacks its type, version or body", code="E5010", why=(text[:120],)
        )
    if record["version"] != VERSION:
        raise StoreError(
            f"a record has version {record['version']}; this orchestrator reads {VERSION}",
            code="E5010",
            fix=("upgrade orchestrator to the version that wrote the store",),
        )
    kind = _event_types().get(record["type"]) if isinstance(record["type"], str) else None
    if kind is None:
        raise StoreError(f"unknown event type {record['type']!r}", code="E5010", why=(text[:120],))
    return from_plain(kind, record["body"])


def to_plain(value: Any) -> dict[str, Plain]:
    """Turn a frozen value of `types` or `messages` into what JSON can say, field by field.

    Raises:
        StoreError: a value is not of the type that its field declares (E5010).
    """
    try:
        plain: dict[str, Plain] = form_of(type(value)).write(value)
    except UnfitError as error:
        raise StoreError(
            f"{type(value).__name__} cannot be recorded: {error}", code="E5010"
        ) from None
    return plain


def from_plain(kind: type[_Value], plain: Plain) -> _Value:
    """Read what `to_plain` wrote of a value of type `kind`.

    Raises:
        StoreError: an unknown or missing key, or a value of the wrong type (E5010).
    """
    try:
        value: _Value = form_of(kind).read(plain)
    except UnfitError as error:
        raise StoreError(
            f"a record of {kind.__name__} cannot be read: {error}", code="E5010"
        ) from None
    return value


@cache
def _event_types() -> Mapping[str, type[Event]]:
    found = {name: getattr(messages, name) for name in messages.__all__}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, AttemptEvent)
    }


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not strict JSON")
