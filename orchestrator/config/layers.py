"""Layers of settings, the later ones winning, where every value remembers where it came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config.yaml import Document, KeyPath, Value, path_text, read_yaml, shown
from orchestrator.errors import ConfigError

__all__ = ["Layer", "Origin", "Override", "layer_of", "parse_overrides"]

BLOCKS = frozenset(
    {("cluster",), ("resources",), ("schedule",), ("schedule", "retry"), ("memory",), ("folds",)}
    | {("ddp",), ("ddp", "nccl"), ("resources", "labels"), ("cluster", "labels")}
)
_FOLDS: KeyPath = ("folds",)
MAX_OVERRIDE = 4096  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value was written: the path there (`projects[1].lr0`) and the place (`a.yaml:7`)."""

    path: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """`key=value` of a command line. `path` is the key cut at its dots."""

    path: tuple[str, ...]
    value: Value
    text: str


@dataclass(slots=True)
class Layer:
    """Leaves by path. Blocks (`resources`, `schedule`) are merged, everything else replaced."""

    leaves: dict[KeyPath, tuple[Value, Origin]] = field(default_factory=dict)

    def put(self, path: KeyPath, value: Value, origin: Origin) -> None:
        """Set one leaf, and forget what it hides. A number of folds hides no other key of them."""
        if path == _FOLDS and isinstance(value, int) and not isinstance(value, bool):
            path = (*_FOLDS, "k")
        for old in [p for p in self.leaves if p[: len(path)] == path or path[: len(p)] == p]:
            del self.leaves[old]
        self.leaves[path] = (value, origin)

    def over(self, below: "Layer") -> "Layer":
        """Return this layer laid over `below`."""
        merged = Layer(dict(below.leaves))
        for path, (value, origin) in self.leaves.items():
            merged.put(path, value, origin)
        return merged

    def values(self) -> dict[str, Value]:
        """The leaves as nested values."""
        result: dict[str, Value] = {}
        for path, (value, _) in self.leaves.items():
            block = result
            for part in path[:-1]:
                block = block.setdefault(str(part), {})
            block[str(path[-1])] = value
        return result

    def origin(self, path: KeyPath) -> Origin | None:
        """Where the value at `path`, or the nearest leaf at, above or below it, came from."""
        for cut in range(len(path), 0, -1):
            for known, (_, origin) in self.leaves.items():
                if known[:cut] == path[:cut]:
                    return origin
        return None


def layer_of(values: Mapping[str, Value], document: Document, at: KeyPath) -> Layer:
    """The leaves of the mapping that stands at `at` in a document."""
    layer = Layer()
    for path, value in _leaves(values, ()):
        full = (*at, *path)
        layer.put(path, value, Origin(path=path_text(full), where=document.where(full)))
    return layer


def _leaves(values: Mapping[str, Value], at: KeyPath) -> Iterator[tuple[KeyPath, Value]]:
    for key, value in values.items():
        path = (*at, key)
        if path not in BLOCKS:
            yield path, value
        elif isinstance(value, dict):
            yield from _leaves(value, path)
        elif value is not None:
            yield path, value


def parse_overrides(texts: Sequence[str]) -> tuple[Override, ...]:
    """Read `key=value` words; the value is YAML, so `[a, b]`, `null` and `1e-3` are as in a file.

    Raises:
        ConfigError: E1017, a word without `=`, without a key, or with a value that is not YAML.
    """
    return tuple(_override(text) for text in texts)


def _override(text: str) -> Override:
    key, equals, value = text.partition("=")
    path = tuple(key.split("."))
    if len(text) > MAX_OVERRIDE or not equals or not all(path) or not key.isprintable():
        raise ConfigError(
            f"{shown(text)!r} is not key=value",
            code="E1017",
            fix=("write for example epochs=10, resources.memory=4GiB or NAME.lr0=0.01",),
        )
    try:
        read = read_yaml(value, shown(key)).value
    except ConfigError as error:
        raise ConfigError(
            f"the value of {shown(key)} on the command line cannot be read: {error.what}",
            code=error.code,
            fix=error.fix or ("put quotes around text with special characters",),
        ) from error
    return Override(path=path, value=read, text=shown(text))
