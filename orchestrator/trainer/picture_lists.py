"""Pictures of training and validation named in one file, where folders do not tell them apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError
from orchestrator.trainer.pictures import SUFFIXES, PictureSet

__all__ = ["SUFFIX", "lists_text", "read_lists"]

SUFFIX = ".pictures.json"
_MAX_BYTES = 1 << 30  # of the file: some ten million paths
_KEYS = {"schema_version", "root", "classes", "train", "val"}


def lists_text(
    root: Path,
    classes: Sequence[str],
    train: Sequence[tuple[str, int]],
    val: Sequence[tuple[str, int]],
) -> str:
    """The content of such a file.

    Args:
        root: What relative paths are below.
        classes: Names of the classes.
        train: Path and class number of each training picture.
        val: The same for validation.
    """
    body = {"schema_version": 1, "root": str(root), "classes": list(classes)}
    rows = {"train": [list(row) for row in train], "val": [list(row) for row in val]}
    return json.dumps(body | rows, indent=0)


def read_lists(file: Path) -> tuple[PictureSet, PictureSet]:
    """Read the training and the validation pictures out of such a file.

    Raises:
        DataError: E3108, it is not such a file, a path leaves the data set, a picture of it is
            not there, a part is empty, or a picture is in both.
    """
    body = _body(file)
    root, classes = Path(body["root"]), body["classes"]
    if not root.is_absolute() or len(classes) < 2 or not all(map(_is_name, classes)):
        raise _wrong(file, "its root is not absolute, or it has fewer than 2 classes")
    sets = {}
    for part in ("train", "val"):
        rows = body[part]
        if not isinstance(rows, list) or not rows:
            raise _wrong(file, f"it names no {part} pictures")
        pairs = [_row(file, root, row, len(classes)) for row in rows]
        sets[part] = PictureSet(
            paths=tuple(path for path, _ in pairs),
            labels=tuple(label for _, label in pairs),
            classes=tuple(classes),
        )
    if both := set(sets["train"].paths) & set(sets["val"].paths):
        raise _wrong(file, f"{min(both)} is in train and in val")
    return sets["train"], sets["val"]


def _body(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise _wrong(file, "it is larger than 1 GiB")
        body = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(file, str(error)) from error
    if not isinstance(body, dict) or set(body) != _KEYS or body["schema_version"] != 1:
        raise _wrong(file, f"its keys are not {', '.join(sorted(_KEYS))}, or of another version")
    if not isinstance(body["root"], str) or not isinstance(body["classes"], list):
        raise _wrong(file, "root must be a path and classes a list")
    return body


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _row(file: Path, root: Path, row: object, num_classes: int) -> tuple[str, int]:
    match row:
        case [str(name), int(label)] if 0 <= label < num_classes:
            path = root / name
        case _:
            raise _wrong(file, f"{row!r:.80} is not a path with its class")
    if ".." in Path(name).parts or path.suffix.lower() not in SUFFIXES:
        raise _wrong(file, f"{name:.80} leads out of the data set, or is not a picture")
    if not path.is_file():
        raise _wrong(file, f"the picture {path} is not there")
    return str(path), label


def _wrong(file: Path, why: str) -> DataError:
    return DataError(
        f"the list of pictures {file} cannot be used",
        code="E3108",
        why=(why,),
        fix=("put back what is missing, or start again: the lists are then made anew",),
    )
