"""The data of each fold: pictures listed, split and written as lists; not one picture is copied."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.client.groups import groups_of
from orchestrator.client.split import Pictures, can_be_spread, missing_classes, split
from orchestrator.config.types import Folds
from orchestrator.memory.facts import task_of
from orchestrator.store.faults import explained_disk
from orchestrator.trainer.picture_lists import SUFFIX, lists_text
from orchestrator.trainer.pictures import find_pictures
from orchestrator.trainer.yolo_data import YoloData, read_class_folders, read_data_yaml
from orchestrator.trainer.yolo_labels import label_of, pictures_in
from orchestrator.types import RunSpec

__all__ = ["FoldData", "check_folds", "fold_data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldData:
    """What `data` of each fold's runs is, fold 1 first, and what should be known about the split.

    `identity` tells this split from every other: of other pictures, groups, k or seed.
    """

    data: tuple[str, ...]
    identity: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    root: Path
    pictures: Pictures
    kind: str  # lists | classes | yolo: how a fold is written
    yolo: YoloData | None = None


def fold_data(spec: RunSpec, folds: Folds, folder: Path) -> FoldData:
    """Split the training and validation pictures of a run into folds and write each down.

    What exists already is not written again: the name of a split's folder is made of all that
    decides it.

    Args:
        spec: Says the trainer, the model and the whole data set; a test part stays apart.
        folds: How it is split.
        folder: Where folders of splits are made.

    Raises:
        DataError: E33xx, the split is not possible; and what the trainer's reader raises.
        ConfigError: E1041, scikit-learn is not installed.
        StoreError: The disk failed.
    """
    if spec.trainer == "fake":  # has no pictures
        return FoldData(data=(spec.settings.data,) * folds.k, identity=_digest(asdict(folds)))
    found, groups, chosen = _split(spec, folds)
    identity = _digest(
        {**asdict(folds), "by": None, "groups": groups, "chosen": chosen, "kind": found.kind}
        | {"root": str(found.root), "names": found.pictures.names}
    )
    made = folder.resolve() / identity
    places = [_place(made, fold, found.kind) for fold in range(folds.k)]
    if not all(place.exists() for place in places):
        with explained_disk(f"the folder {made}"):
            if made.exists():  # somebody removed a part of it
                shutil.rmtree(made)
            _make(found, groups, chosen, folds, made)
    return FoldData(
        data=tuple(map(str, places)),
        identity=identity,
        remarks=tuple(_remarks(found.pictures, chosen, folds)),
    )


def check_folds(spec: RunSpec, folds: Folds) -> tuple[str, ...]:
    """What should be known about a split, which is not written down; raises as `fold_data`."""
    if spec.trainer == "fake":
        return ()
    found, _, chosen = _split(spec, folds)
    return tuple(_remarks(found.pictures, chosen, folds))


def _split(spec: RunSpec, folds: Folds) -> tuple[_Set, tuple[str, ...] | None, tuple[int, ...]]:
    found = _pictures_of(spec)
    groups = None if folds.by is None else groups_of(found.pictures.names, folds.by)
    return found, groups, split(found.pictures, groups, folds)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _remarks(pictures: Pictures, chosen: Sequence[int], folds: Folds) -> Iterable[str]:
    k = folds.k
    if folds.stratify and not can_be_spread(pictures, k):
        yield f"classes are not spread evenly: none has {k} pictures, one for each fold"
    for fold in range(k):
        if missing := missing_classes(pictures, chosen, fold):
            names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            yield f"fold {fold + 1}/{k} trains without any picture of {names}"


def _pictures_of(spec: RunSpec) -> _Set:
    data = Path(spec.settings.data).expanduser().absolute()
    if spec.trainer == "timm":
        both = find_pictures(data, spec.settings.seed)
        rows = [row for each in both for row in zip(each.paths, each.labels, strict=True)]
        pictures = _sorted(data, [(p, (label,)) for p, label in rows], both[0].classes)
        return _Set(root=data, pictures=pictures, kind="lists")
    if task_of(spec.settings.model) == "classify":
        yolo = read_class_folders(data)
        found = [
            (str(picture), (label,))
            for above in (yolo.splits["train"][0], yolo.splits["val"][0])
            for label, name in enumerate(yolo.names)
            for picture in pictures_in(yolo, above / name)
        ]
        return _Set(root=data, pictures=_sorted(data, found, yolo.names), kind="classes")
    yolo = read_data_yaml(data)
    every = (p for part in ("train", "val") for path in yolo.splits[part] for p in _in(yolo, path))
    labelled = [(str(picture), _labels(picture)) for picture in every]
    pictures = _sorted(yolo.root, labelled, yolo.names)
    return _Set(root=yolo.root, pictures=pictures, kind="yolo", yolo=yolo)


def _in(data: YoloData, path: Path) -> Iterable[Path]:
    return (Path(os.path.abspath(picture)) for picture in pictures_in(data, path))  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links


def _labels(picture: Path) -> tuple[int, ...]:
    """The classes in a picture's label file, whose rows were checked before."""
    try:
        text = label_of(picture).read_text("utf-8-sig")
    except FileNotFoundError:
        return ()
    rows = (line.split() for line in text.splitlines())
    return tuple(sorted({int(float(row[0])) for row in rows if row}))


def _sorted(
    root: Path, found: Sequence[tuple[str, tuple[int, ...]]], classes: Sequence[str]
) -> Pictures:
    named = {_name(root, path): (path, labels) for path, labels in found}
    names = sorted(named)
    return Pictures(
        names=tuple(names),
        paths=tuple(named[name][0] for name in names),
        labels=tuple(named[name][1] for name in names),
        classes=tuple(classes),
    )


def _name(root: Path, path: str) -> str:
    own = Path(path)
    return own.relative_to(root).as_posix() if own.is_relative_to(root) else own.as_posix()


def _place(made: Path, fold: int, kind: str) -> Path:
    own = made / f"fold-{fold + 1}"
    if kind == "lists":
        return own.with_name(own.name + SUFFIX)
    return own / "data.yaml" if kind == "yolo" else own


def _make(
    found: _Set,
    groups: Sequence[str] | None,
    chosen: Sequence[int],
    folds: Folds,
    made: Path,
) -> None:
    """Write all folds; the folder appears whole or not at all."""
    scratch = made.with_name(f".{made.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    write = {"lists": _write_lists, "classes": _link_classes, "yolo": _write_yolo}[found.kind]
    for fold in range(folds.k):
        tested = [at for at, own in enumerate(chosen) if own == fold]
        trained = [at for at, own in enumerate(chosen) if own != fold]
        write(
            found,
            trained,
            tested,
            _place(scratch, fold, found.kind),
            _place(made, fold, found.kind),
        )
    facts = _facts(found.pictures, groups, chosen, folds)
    (scratch / "split.json").write_text(json.dumps(facts, indent=1), "utf-8")
    try:
        scratch.rename(made)
    except OSError:  # another process made the same split first
        shutil.rmtree(scratch)
        if not made.exists():
            raise


def _write_lists(found: _Set, trained: list[int], tested: list[int], to: Path, _: Path) -> None:
    pictures = found.pictures

    def rows(chosen: list[int]) -> list[tuple[str, int]]:
        """In the order of class folders: a part of a list is then a part of every class."""
        pairs = [(pictures.names[at], pictures.labels[at][0]) for at in chosen]
        return sorted(pairs, key=lambda pair: (pair[1], pair[0]))

    text = lists_text(found.root, pictures.classes, rows(trained), rows(tested))
    to.write_text(text, "utf-8")


def _write_yolo(found: _Set, trained: list[int], tested: list[int], to: Path, final: Path) -> None:
    assert found.yolo is not None
    to.parent.mkdir()
    for part, chosen in (("train", trained), ("val", tested)):
        lines = [f"{found.pictures.paths[at]}\n" for at in chosen]
        (to.parent / f"{part}.txt").write_text("".join(lines), "utf-8")
    splits = {part: (final.parent / f"{part}.txt",) for part in ("train", "val")}
    replace(found.yolo, splits=splits).write(to.parent)


def _link_classes(found: _Set, trained: list[int], tested: list[int], to: Path, _: Path) -> None:
    """Class folders of links: the only form that ultralytics takes classes in."""
    pictures = found.pictures
    for part, chosen in (("train", trained), ("val", tested)):
        for name in pictures.classes:
            (to / part / name).mkdir(parents=True)
        for at in chosen:
            path = Path(pictures.paths[at])
            # Pictures of the old train and val folders may have one name.
            link = to / part / pictures.classes[pictures.labels[at][0]] / f"{at:06}-{path.name}"
            link.symlink_to(path)


def _facts(
    pictures: Pictures, groups: Sequence[str] | None, chosen: Sequence[int], folds: Folds
) -> dict[str, object]:
    rows = []
    for fold in range(folds.k):
        tested = [at for at, own in enumerate(chosen) if own == fold]
        counts = Counter(label for at in tested for label in pictures.labels[at])
        rows.append(
            {
                "fold": fold + 1,
                "train": len(chosen) - len(tested),
                "val": len(tested),
                "val_by_class": {pictures.classes[label]: n for label, n in sorted(counts.items())},
            }
        )
    num_groups = None if groups is None else len(set(groups))
    return {
        "schema_version": 1,
        **asdict(folds),
        "pictures": len(pictures),
        "groups": num_groups,
        "folds": rows,
    }
