"""Strict YAML: plain values with their lines, and nothing that can grow, repeat or run code.

The reader walks the parser's events itself, because `yaml.safe_load` blocks objects but not
expansion (219 bytes of aliases become 3 MB), lets a repeated key win silently, and takes `1e-3`
for a word.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from orchestrator.errors import ConfigError

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "Document",
    "KeyPath",
    "Value",
    "path_text",
    "read_yaml",
    "shown",
    "write_yaml",
]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_MAX_DIGITS = 18  # of a whole number: every count of this product fits into 64 bits

KeyPath: TypeAlias = tuple[str | int, ...]
Value: TypeAlias = Any  # what YAML can say: None, bool, int, float, str, list and dict of those

_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it
_resolve: Callable[..., Any] = yaml.resolver.Resolver().resolve
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset({f"{_TAG}{kind}" for kind in ("str", "seq", "map", "null", "bool")})
_TRUE = frozenset({"true", "yes", "on"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML text as plain values. `lines` has the line, from 1, of every key and list entry."""

    name: str
    value: Value
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` of the nearest thing at or above `path`."""
        if not self.lines:
            return self.name
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"


def path_text(path: KeyPath) -> str:
    """A key path as people write it: `projects[1].lr0`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shown(part)}" if text else shown(part)
    return text


def shown(text: str, limit: int = 60) -> str:
    """The text for a message: one line, no control characters, of a bearable length."""
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return clean if len(text) <= limit else clean[:limit] + "..."


def write_yaml(value: Value) -> str:
    """A YAML text that `read_yaml` reads as this value; keys keep their order."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True)


class _Writer(yaml.SafeDumper):
    """Writes plain values, words that the reader takes for numbers in quotes."""

    def ignore_aliases(self, data: object) -> bool:
        return True  # the reader knows none

    def represent_str(self, data: str) -> yaml.ScalarNode:
        is_number = _is_whole(data.replace("_", "")) or _FLOAT.fullmatch(data)
        return self.represent_scalar(f"{_TAG}str", data, style="'" if is_number else None)


_Writer.add_representer(str, _Writer.represent_str)


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdecimal()


def read_yaml(text: str, name: str) -> Document:
    """Read one YAML document.

    Args:
        text: At most `MAX_BYTES` of YAML, nested at most `MAX_DEPTH` deep.
        name: What messages call the text, usually the file's path.

    Raises:
        ConfigError: E1001 not YAML, E1002 too large or deep, E1003 alias, anchor or tag,
            E1004 a key given twice, E1005 not a finite number.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ConfigError(
            f"{name} is larger than {MAX_BYTES >> 20} MiB", code="E1002", fix=("split it",)
        )
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(
            f"{name}:{line}: the character {bad.group()!a} is not allowed in YAML",
            code="E1001",
            fix=("save the file as text in UTF-8",),
        )
    lines: dict[KeyPath, int] = {}
    try:
        events = yaml.parse(text, Loader=_LOADER)
        reader = _Reader(name=name, events=events, lines=lines)
        value = reader.document()
    except yaml.YAMLError as error:
        raise _syntax(error, name) from error
    return Document(name=name, value=value, lines=lines)


def _syntax(error: yaml.YAMLError, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    return ConfigError(
        f"{where} is not YAML: {shown(str(problem), 120)}",
        code="E1001",
        fix=("write `key: value`, one a line, nested by spaces",),
    )


class _Reader:
    """Builds values from parser events, one document, no recursion beyond `MAX_DEPTH`."""

    def __init__(self, name: str, events: Iterator[Any], lines: dict[KeyPath, int]) -> None:
        self._name = name
        self._events = events
        self._lines = lines

    def document(self) -> Value:
        value: Value = None
        seen = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self._error(event, "a second document begins", "E1001", "keep one")
                seen = True
            elif isinstance(event, yaml.NodeEvent):
                value = self._value(event, ())
        return value

    def _value(self, event: Any, path: KeyPath) -> Value:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            raise self._error(
                event,
                f"{sign}{shown(event.anchor)} is an alias or anchor, which configs do not use",
                "E1003",
                "write the values out, or put them under `defaults:`",
            )
        if len(path) > MAX_DEPTH:
            raise self._error(
                event, f"nested deeper than {MAX_DEPTH} levels", "E1002", "flatten it"
            )
        self._lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if event.tag is not None and event.tag not in _PLAIN_TAGS:
            raise self._tag(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._map(path)

    def _list(self, path: KeyPath) -> list[Value]:
        items: list[Value] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._value(event, (*path, len(items))))
        return items

    def _map(self, path: KeyPath) -> dict[str, Value]:
        items: dict[str, Value] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path)
            here = (*path, key)
            if key in items:
                raise self._error(
                    event,
                    f"{path_text(here)} is given twice, first in line {self._lines[here]}",
                    "E1004",
                    "keep one of the two",
                )
            self._lines[here] = event.start_mark.line + 1
            items[key] = self._value(next(self._events), here)
        return items

    def _key(self, event: Any, path: KeyPath) -> str:
        if isinstance(event, yaml.ScalarEvent) and event.anchor is None and event.value:
            return str(event.value)
        raise self._error(
            event, f"a key under {path_text(path) or 'the top'} is not a word", "E1001", "name it"
        )

    def _scalar(self, event: Any) -> Value:
        text: str = event.value
        if event.tag is not None and event.tag != "!":
            if event.tag not in _PLAIN_TAGS:
                raise self._tag(event)
            return text
        if not event.implicit[0]:
            return text
        kind = _resolve(yaml.ScalarNode, text, event.implicit)
        if kind == f"{_TAG}null":
            return None
        if kind == f"{_TAG}bool":
            return text.lower() in _TRUE
        return self._number(event, text, str(kind))

    def _number(self, event: Any, text: str, kind: str) -> Value:
        if ":" in text:  # YAML 1.1 reads 1:30 as ninety; a config means the text
            return text
        plain = text.replace("_", "")
        if kind == f"{_TAG}int" or _is_whole(plain):
            if len(plain.lstrip("+-")) > _MAX_DIGITS:
                raise self._error(
                    event, f"{shown(text, 24)} is too large a number", "E1005", "make it smaller"
                )
            return int(plain, 10 if _is_whole(plain) else 0)
        if kind == f"{_TAG}float" or _FLOAT.fullmatch(text):
            value = float(plain.lower().replace(".inf", "inf").replace(".nan", "nan"))
            if not math.isfinite(value):
                raise self._error(
                    event, f"{shown(text, 24)} is not a finite number", "E1005", "give a number"
                )
            return value
        return text

    def _tag(self, event: Any) -> ConfigError:
        return self._error(
            event,
            f"the tag {shown(event.tag)} is not allowed: a config holds plain values",
            "E1003",
            "remove the tag",
        )

    def _error(self, event: Any, problem: str, code: str, fix: str) -> ConfigError:
        line = event.start_mark.line + 1
        return ConfigError(f"{self._name}:{line}: {problem}", code=code, fix=(fix,))
