"""Rules for the config's node types beyond what each value may be: cards, labels, prices."""

from collections.abc import Iterator, Mapping

from orchestrator.config.fields import name_given
from orchestrator.config.node_types import NodeTypeModel, labels_of
from orchestrator.config.rules import Place
from orchestrator.config.words import Problem
from orchestrator.errors import ConfigError
from orchestrator.selectors import is_label

__all__ = ["node_type_problems"]


def node_type_problems(place: Place, models: Mapping[str, NodeTypeModel]) -> list[Problem]:
    """Everything that is wrong, of every type."""
    found: list[Problem] = []
    for name, model in models.items():
        found += [*_name(place, name), *_numbers(place, name, model), *_cards(place, name, model)]
    return [*found, *_labels(place, models), *_prices(place, models)]


def _problem(
    place: Place, name: str, key: str, what: str, fix: str, code: str = "E1070"
) -> Problem:
    path = ("cluster", "node_types", name, key) if key else ("cluster", "node_types", name)
    text, where = place.of(path)
    return Problem(f"{text}: {what} ({where})", code=code, fix=fix)


def _name(place: Place, name: str) -> Iterator[Problem]:
    try:
        name_given(name)
    except ValueError as error:
        yield _problem(place, name, "", f"the name {error}", "such as small, or l4-spot")


def _numbers(place: Place, name: str, model: NodeTypeModel) -> Iterator[Problem]:
    if model.min > model.max:
        told = f"is {model.min}, above max, which is {model.max}"
        yield _problem(place, name, "min", told, f"min: 0 to {model.max}")


def _cards(place: Place, name: str, model: NodeTypeModel) -> Iterator[Problem]:
    if model.gpu is None:
        if model.memory is not None:
            told = "a node type with memory of cards has to say which cards"
            yield _problem(place, name, "memory", told, "gpu: a name of the catalogue")
        return
    if model.memory is not None:
        return  # a card that the catalogue need not know, as its size was said
    from orchestrator.device.catalogue import find_card  # only when asked

    try:
        find_card(model.gpu)
    except ConfigError as error:
        told = "; ".join((error.what, *error.why))
        fix = "; ".join((*error.fix, "or say what each card has: memory: 24564MiB"))
        yield _problem(place, name, "gpu", told, fix, "E1071")


def _labels(place: Place, models: Mapping[str, NodeTypeModel]) -> Iterator[Problem]:
    owners: dict[tuple[tuple[str, str], ...], str] = {}
    for name, model in models.items():
        for key, value in model.labels.items():
            if not is_label(key, value):
                told = f"{key}={value!r} is no label that Ray takes"
                fix = "letters, digits, dashes, dots and underscores, at most 63"
                yield _problem(place, name, "labels", told, fix)
        owner = owners.setdefault(labels_of(name, model), name)
        if owner != name:
            told = f"are those of node type {owner} too, so neither can be asked for alone"
            yield _problem(
                place, name, "labels", told, f"orc.node-type: {name}, in the cluster too"
            )


def _prices(place: Place, models: Mapping[str, NodeTypeModel]) -> Iterator[Problem]:
    priced = [name for name, model in models.items() if model.price is not None]
    for name in models:
        if priced and name not in priced:
            told = f"is missing, while {priced[0]} has one, and they are compared"
            yield _problem(place, name, "price", told, "a price for every node type, or for none")
