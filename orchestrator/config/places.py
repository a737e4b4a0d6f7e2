"""Where every value of a project comes from: layers, words of the command line, stages."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.config.layers import Layer, Origin, Override, layer_of
from orchestrator.config.model import ProjectModel
from orchestrator.config.project import name_from
from orchestrator.config.rules import Place
from orchestrator.config.stages import read_stages, without_typed
from orchestrator.config.words import Problem, nearest
from orchestrator.config.yaml import Document, KeyPath, path_text, shown
from orchestrator.errors import ConfigError

__all__ = ["COMMAND_LINE", "SHARED", "places_of", "typed_origin"]

SHARED = ("cluster", "runs")
COMMAND_LINE = "command line"
_PROJECT_KEYS = frozenset(ProjectModel.model_fields)


def places_of(
    user: Document, document: Document, words: Sequence[Override]
) -> tuple[list[Place], list[Problem]]:
    """Every project's values, from the lowest layer to the highest; a place for each stage."""
    top = document.value or {}
    base = layer_of((user.value or {}).get("defaults") or {}, user, ("defaults",))
    base = layer_of(top.get("defaults") or {}, document, ("defaults",)).over(base)
    blocks: list[tuple[KeyPath, object]]
    if "projects" in top:
        blocks = [(("projects", i), block) for i, block in enumerate(top["projects"])]
    else:
        alone = {k: v for k, v in top.items() if k not in (*SHARED, "defaults")}
        blocks = [((), alone)] if alone or words else []
    if not blocks:
        raise ConfigError(
            f"{document.name} has no project",
            code="E1012",
            fix=("add `projects:` with a name, model and data each, or model: and data:",),
        )
    names = [block.get("name") for _, block in blocks if isinstance(block, dict)]
    targets = [(word, _target(word, names)) for word in words]
    _check_words(targets, [name for name in names if isinstance(name, str)])
    places, problems = [], []
    for at, block in blocks:
        typed = _own(targets, block.get("name") if isinstance(block, dict) else None)
        place = _place(base, document, at, block, typed)
        staged, wrong = _staged(place, (user, document), at, typed)
        places.extend(staged)
        problems.extend(wrong)
    return places, problems


def _place(
    base: Layer,
    document: Document,
    at: KeyPath,
    block: object,
    words: Sequence[Override],
) -> Place:
    where = document.where(at)
    if not isinstance(block, dict):
        raise ConfigError(
            f"{path_text(at)} must be a block of keys, not {shown(repr(block))} ({where})",
            code="E1011",
            fix=("write `- name: ...` with model: and data: below it",),
        )
    layer = layer_of(block, document, at).over(base)
    for word in words:
        layer.put(word.path, word.value, typed_origin(word))
    if not at and ("name",) not in layer.leaves:
        source = document.name if document.lines else str(layer.values().get("model"))
        layer.put(("name",), name_from(source), Origin(path="name", where=where))
    return Place(base=path_text(at), where=where, layer=layer)


def _own(words: Sequence[tuple[Override, str | None]], name: object) -> list[Override]:
    """The words for one project: those for all before those for it alone, which win."""
    own = [
        replace(word, path=word.path[target.count(".") + 1 :])
        for word, target in words
        if target is not None and target == name
    ]
    return [*(word for word, target in words if target is None), *own]


def _staged(
    place: Place, documents: tuple[Document, Document], at: KeyPath, words: Sequence[Override]
) -> tuple[list[Place], list[Problem]]:
    """The place of each stage: its keys over the project's, words of the command line over both."""
    if ("stages",) not in place.layer.leaves:
        return [place], []
    value, origin = place.layer.leaves["stages",]
    user, document = documents
    known = {
        (document.where((*own, "stages")), path_text((*own, "stages"))): (document, own)
        for own in (at, ("defaults",))
    }
    source, above = known.get((origin.where, origin.path), (user, ("defaults",)))
    if origin.where == COMMAND_LINE:
        source, above = Document(name=COMMAND_LINE, value=None), ()
    stages, problems = read_stages(value, source, (*above, "stages"))
    whole = Layer(dict(place.layer.leaves))
    if not problems:
        whole.put(("stages",), without_typed(value, words), origin)
    places = []
    for stage in stages:
        layer = stage.layer.over(place.layer)
        for word in words:
            layer.put(word.path, word.value, typed_origin(word))
        places.append(
            Place(
                base=path_text(stage.at),
                where=source.where(stage.at),
                layer=layer,
                stage=stage.stage,
                whole=whole,
            )
        )
    return ([] if problems else places), problems


def _target(word: Override, names: Sequence[object]) -> str | None:
    """The project that a `NAME.key=value` word is for; names may have dots, the longest wins."""
    key = ".".join(word.path)
    fitting = [n for n in names if isinstance(n, str) and key.startswith(f"{n}.")]
    return max(fitting, key=len, default=None)


def _check_words(words: Sequence[tuple[Override, str | None]], names: Sequence[str]) -> None:
    """A dotted word must begin with a block, or with the name of a project."""
    blocks = ("resources", "schedule", "memory", "ddp", "folds")
    for word, target in words:
        first, key = shown(word.path[0]), shown(".".join(word.path))
        if first in ("projects", "defaults"):
            raise ConfigError(
                f"{key} cannot be set on the command line",
                code="E1017",
                fix=("write key=value for all projects, or NAME.key=value for one",),
            )
        if len(word.path) > 1 and first not in blocks and target is None:
            known = {*names, *blocks, *_PROJECT_KEYS}
            raise ConfigError(
                f"{key}: {first} is neither a project nor a block ({COMMAND_LINE})",
                code="E1017",
                fix=(f"the nearest: {', '.join(nearest(first, known))}",),
            )


def typed_origin(word: Override) -> Origin:
    """Where a word of the command line was written."""
    return Origin(path=path_text(word.path), where=COMMAND_LINE)
