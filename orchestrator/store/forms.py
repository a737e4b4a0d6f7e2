"""How a value of a type hint is written as plain JSON values and read back, found once per hint."""

import math
import types
from collections import abc
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from sys import intern
from typing import Any, NewType, TypeAlias, Union, get_args, get_origin, get_type_hints

__all__ = ["Form", "Plain", "UnfitError", "form_of"]

Plain: TypeAlias = bool | int | float | str | list["Plain"] | dict[str, "Plain"] | None

_FLOAT = "$float"
_PRIMITIVES: tuple[type, ...] = (str, int, float, bool, type(None))


class UnfitError(ValueError):
    """A value that does not fit; the text grows by one field name a level on its way up."""


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written and read."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def form_of(hint: Any) -> Form:
    """Find how values of a type hint are written and read.

    Known are str, int, float, bool, None, enumerations, frozen dataclasses, `tuple[T, ...]`,
    `Mapping[str, T]`, `T | None`, unions of the primitives, and NewTypes of these. A float that
    JSON cannot say (NaN and the infinities) becomes ``{"$float": "nan"}``.

    Raises:
        UnfitError: the hint is none of these.
    """
    return _form(hint)


@cache
def _form(hint: Hashable) -> Form:
    """Find the form of a type hint; computed once per hint."""
    if isinstance(hint, NewType):
        return _form(hint.__supertype__)
    form = _class_form(hint) if isinstance(hint, type) else _generic_form(hint)
    if form is None:
        raise UnfitError(f"values of type {hint!r} have no form")
    return form


def _class_form(kind: type) -> Form | None:
    if kind is float:
        return Form(_write_float, _read_float)
    if kind in _PRIMITIVES:
        return _exact_form(kind)
    if issubclass(kind, Enum):
        return _enum_form(kind)
    return _dataclass_form(kind) if is_dataclass(kind) else None


def _generic_form(hint: Hashable) -> Form | None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union_form(arguments)
    if origin is tuple and arguments[1:] == (...,):
        return _tuple_form(_form(arguments[0]))
    if origin is abc.Mapping and arguments[0] is str:
        return _mapping_form(_form(arguments[1]))
    return None


def _exact_form(kind: type) -> Form:
    def check(value: Any) -> Any:
        # type(), not isinstance: True is an int to isinstance, and would come back as 1.
        if type(value) is kind:
            return value
        raise UnfitError(f"{value!r:.80} is not {kind.__name__}")

    # Runs differ in few of their texts, and a driver holds all of them: equal ones are one object.
    return Form(check, (lambda value: intern(check(value))) if kind is str else check)


def _write_float(value: Any) -> Plain:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnfitError(f"{value!r:.80} is not float")
    try:
        number = float(value)  # also drops the class of NumPy's float64, which json would not know
    except OverflowError:
        raise UnfitError(f"{value!r:.80} is too large for float") from None
    return number if math.isfinite(number) else {_FLOAT: repr(number)}


def _read_float(plain: Any) -> float:
    if isinstance(plain, dict) and set(plain) == {_FLOAT}:
        plain = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(plain[_FLOAT])
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise UnfitError(f"{plain!r:.80} is not float")
    try:
        return float(plain)
    except OverflowError:
        raise UnfitError(f"{plain!r:.80} is too large for float") from None


def _union_form(options: tuple[Any, ...]) -> Form:
    rest = tuple(option for option in options if option is not type(None))
    if len(rest) == 1:
        form = _form(rest[0])
        return Form(
            lambda value: None if value is None else form.write(value),
            lambda plain: None if plain is None else form.read(plain),
        )
    if not all(option in _PRIMITIVES for option in options):
        raise UnfitError(f"a union of {options!r} has no form")

    def choose(special: type, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def one(value: Any) -> Any:
            if float in options and isinstance(value, special):
                return convert(value)
            if type(value) in options:
                return value
            raise UnfitError(f"{value!r:.80} is not one of {_names(options)}")

        return one

    return Form(choose(float, _write_float), choose(dict, _read_float))


def _names(options: tuple[Any, ...]) -> str:
    return ", ".join(option.__name__ for option in options)


def _tuple_form(item: Form) -> Form:
    def write(value: Any) -> list[Plain]:
        if not isinstance(value, tuple):
            raise UnfitError(f"{value!r:.80} is not a tuple")
        return [item.write(part) for part in value]

    def read(plain: Any) -> tuple[Any, ...]:
        if not isinstance(plain, list):
            raise UnfitError(f"{plain!r:.80} is not a list")
        return tuple([item.read(part) for part in plain])

    return Form(write, read)


def _mapping_form(item: Form) -> Form:
    def convert(one: Callable[[Any], Any], value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(type(name) is str for name in value):
            raise UnfitError(f"{value!r:.80} is not a mapping with text keys")
        return {name: _under(name, one, part) for name, part in value.items()}

    return Form(lambda value: convert(item.write, value), lambda plain: convert(item.read, plain))


def _enum_form(kind: type[Enum]) -> Form:
    def write(value: Any) -> Any:
        if isinstance(value, kind):
            return value.value
        raise UnfitError(f"{value!r:.80} is not {kind.__name__}")

    def read(plain: Any) -> Enum:
        try:
            return kind(plain)
        except ValueError:
            raise UnfitError(f"{plain!r:.80} is not {kind.__name__}") from None

    return Form(write, read)


def _dataclass_form(kind: type[Any]) -> Form:
    hints = get_type_hints(kind)
    forms = {field.name: _form(hints[field.name]) for field in fields(kind)}
    needed = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }

    def write(value: Any) -> dict[str, Any]:
        if type(value) is not kind:
            raise UnfitError(f"{value!r:.80} is not {kind.__name__}")
        return {
            name: _under(name, form.write, getattr(value, name)) for name, form in forms.items()
        }

    def read(plain: Any) -> Any:
        if not isinstance(plain, dict):
            raise UnfitError(f"{plain!r:.80} is not {kind.__name__}")
        if unknown := plain.keys() - forms.keys():
            raise UnfitError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
        if missing := needed - plain.keys():
            raise UnfitError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
        values = {name: _under(name, forms[name].read, part) for name, part in plain.items()}
        try:
            return kind(**values)
        except ValueError as error:
            raise UnfitError(str(error)) from error

    return Form(write, read)


def _under(name: str, convert: Callable[[Any], Any], value: Any) -> Any:
    try:
        return convert(value)
    except UnfitError as error:
        raise UnfitError(f"{name}: {error}") from None
