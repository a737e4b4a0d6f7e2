"""The catalogue of GPUs: what a card of a given name holds and does; emulated cards by name."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from orchestrator.device.catalogue_file import CardModel, read_models
from orchestrator.errors import ConfigError
from orchestrator.types import Bytes, Card

__all__ = ["CardModel", "catalogue", "emulated_cards", "find_card", "worth_of"]

_GIB = 1 << 30
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(gib|gb|mib|mb)(?![\w])", re.IGNORECASE)
_COUNT = re.compile(r"^\s*(\d+)\s*[x*]\s+", re.IGNORECASE)
_MIN_CUSTOM_BYTES = 64 << 20  # below this not even the smallest model and its kernels fit
_MAX_CUSTOM_BYTES = 4 << 40
_MAX_CARDS = 1024


@dataclass(frozen=True, slots=True)
class _Index:
    """The catalogue by normalised name: whole, and without the size."""

    whole: Mapping[str, CardModel]
    families: Mapping[str, tuple[CardModel, ...]]


@cache
def catalogue() -> tuple[CardModel, ...]:
    """Every model of `cards.yaml`, in the order of the file.

    Raises:
        ValueError: The file breaks one of its own rules.
    """
    text = resources.files("orchestrator.device").joinpath("cards.yaml").read_text("utf-8")
    # libyaml's safe loader where PyYAML was built with it: ten times faster than yaml.safe_load.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return read_models(yaml.load(text, Loader=loader))  # noqa: S506 - both are safe loaders


def find_card(text: str) -> CardModel:
    """The model that a person or a driver means.

    Case, spaces, dashes and the words NVIDIA, GeForce and Tesla do not matter. A size ("6GB",
    "6GiB": both are GiB, as on the box) chooses between variants of one name. Without a size,
    the variant that carries the bare name is meant. A size alone ("6GiB", "custom 6GiB") is a card
    of that size of which nothing else is known.

    Raises:
        ConfigError: E1050 no such card, E1051 the card does not come with that memory, E1052
            several cards have the name.
    """
    index = _index()
    exact = index.whole.get(_key(text))
    if exact is not None:
        return exact
    size = _SIZE.search(text)
    base = _key(_SIZE.sub(" ", text, count=1)) if size else _key(text)
    if size and base in ("", "custom"):
        return _custom(text, _size_bytes(size))
    family = index.families.get(base)
    if family is None:
        raise _unknown(text, index)
    if size is None:
        return _only(text, family)
    wanted = _size_bytes(size) / _GIB
    fitting = [model for model in family if abs(model.nominal_gib - wanted) < 0.5]
    if not fitting:
        sizes = " or ".join(f"{gib:g} GB" for gib in sorted({m.nominal_gib for m in family}))
        raise ConfigError(
            f"{text!r}: this card comes with {sizes}, not {wanted:g} GB",
            code="E1051",
            why=tuple(f"{m.name} has {m.nominal_gib:g} GB" for m in family),
            fix=(f"leave the size out, or give a card of its own: 'custom {wanted:g}GiB'",),
        )
    return _only(text, fitting)


def worth_of(name: str) -> float:
    """How fast a card trains, as a multiple of the RTX 2060; 1 where the catalogue does not know.

    The geometric mean of the ratios of memory bandwidth and of the fp16 rate (tensor cores where
    there are some). A step of a convolutional network is bound partly by the one and partly by
    the other, so each alone would mislead; a rule of thumb that measured epochs replace.
    """
    try:
        card, unit = find_card(name), find_card("RTX 2060")
    except ConfigError:
        return 1.0
    rate, unit_rate = _rate(card), _rate(unit)
    if not (rate and unit_rate and card.bandwidth_gb_s and unit.bandwidth_gb_s):
        return 1.0
    return float((rate / unit_rate * card.bandwidth_gb_s / unit.bandwidth_gb_s) ** 0.5)


def _rate(card: CardModel) -> float | None:
    return card.fp16_tensor_tflops or card.fp32_tflops


def emulated_cards(text: str | Sequence[str]) -> tuple[Card, ...]:
    """Cards for a machine that has none, from "RTX 2060 6GB, 2x RTX 4080 SUPER, custom 6GiB".

    Their memory is the model's; their indexes count from 0 in the order given.

    Raises:
        ConfigError: As `find_card`; E1053 for an empty list or more than 1024 cards.
    """
    words = text.split(",") if isinstance(text, str) else list(text)
    models: list[CardModel] = []
    for word in words:
        count = _COUNT.match(word)
        model = find_card(_COUNT.sub("", word).strip())
        models += [model] * min(int(count[1]) if count else 1, _MAX_CARDS + 1)
    if not 1 <= len(models) <= _MAX_CARDS:
        raise ConfigError(
            f"{len(models)} emulated cards were asked for; 1 to {_MAX_CARDS} are possible",
            code="E1053",
            fix=("name cards, for instance: RTX 2060, 2x RTX 4090",),
        )
    return tuple(
        Card(
            index=index,
            name=model.name,
            memory_bytes=model.memory_bytes,
            is_emulated=True,
            uuid=f"EMULATED-{index}",
        )
        for index, model in enumerate(models)
    )


@cache
def _index() -> _Index:
    whole: dict[str, CardModel] = {}
    shared: set[str] = set()
    families: dict[str, list[CardModel]] = {}
    for model in catalogue():
        for name in (model.name, *model.aliases):
            whole[_key(name)] = model
    for model in catalogue():
        key = _key(model.nvml_name)
        if whole.setdefault(key, model) is not model and _key(model.name) != key:
            shared.add(key)
        for name in (model.name, model.nvml_name, *model.aliases):
            family = families.setdefault(_key(_SIZE.sub(" ", name, count=1)), [])
            if model not in family:
                family.append(model)
    bare = {_key(name) for model in catalogue() for name in (model.name, *model.aliases)}
    for key in shared - bare:  # the driver calls several variants so, and none is the default
        del whole[key]
    return _Index(whole, {key: tuple(family) for key, family in families.items()})


def _key(text: str) -> str:
    words = re.sub(r"[^a-z0-9]+", " ", text.lower().replace("gib", "gb")).split()
    return "".join(word for word in words if word not in ("nvidia", "geforce", "tesla"))


def _size_bytes(size: re.Match[str]) -> Bytes:
    unit = 1 << 20 if size[2].lower().startswith("m") else _GIB
    return round(float(size[1]) * unit)


def _only(text: str, models: Sequence[CardModel]) -> CardModel:
    if len(models) == 1:
        return models[0]
    names = ", ".join(model.name for model in models)
    raise ConfigError(
        f"{text!r} can be several cards: {names}", code="E1052", fix=("give one of those names",)
    )


def _unknown(text: str, index: _Index) -> ConfigError:
    known = {_key(m.name): m.name for m in catalogue()} | {
        _key(alias): alias for m in catalogue() for alias in m.aliases
    }
    close = difflib.get_close_matches(_key(text), known, n=3, cutoff=0.5)
    near = ", ".join(known[key] for key in close)
    return ConfigError(
        f"{text!r} is not a GPU of the catalogue of {len(index.whole)} names",
        code="E1050",
        why=(f"nearest: {near}",) if near else (),
        fix=("correct the name, or give a size alone: 'custom 6GiB'",),
    )


def _custom(text: str, num_bytes: Bytes) -> CardModel:
    if not _MIN_CUSTOM_BYTES <= num_bytes <= _MAX_CUSTOM_BYTES:
        raise ConfigError(
            f"{text!r}: a card has 64 MiB to 4 TiB", code="E1051", fix=("correct the size",)
        )
    gib = num_bytes / _GIB
    return CardModel(
        name=f"custom {gib:g}GiB",
        nvml_name=f"custom {gib:g}GiB",
        nominal_gib=gib,
        memory_bytes=num_bytes,
        architecture="custom",
        source="a size given by hand",
        confidence="checked",
    )
