"""Pictures and labels of a YOLO data set, read once before training; the first bad one is named."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from orchestrator.errors import DataError
from orchestrator.trainer.yolo_data import YoloData

__all__ = ["check_data", "check_label", "check_picture", "label_of", "pictures_in"]

# Decoders that may run, by Pillow's names (MPO is opened by JPEG's). What ultralytics would read
# beyond them, by suffix, is found too, and refused by name: rare decoders are where flaws are.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_READ = (".jpg", ".jpeg", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SUFFIXES = frozenset({*_READ, ".avif", ".dng", ".heic", ".heif", ".jp2"})
_MAX_PIXELS = 100_000_000
_SLACK = 0.01  # coordinates may leave 0..1 by this much: what ultralytics tolerates too
_POLYGON = 7  # least columns of a polygon: the class and three points
_THREADS = 4


def check_data(data: YoloData, task: str) -> int:
    """Check every picture and label that training and validation will read.

    Args:
        data: The data set.
        task: detect, segment, pose, obb or classify.

    Returns:
        The number of pictures that were checked.

    Raises:
        DataError: E3210 no pictures, E3211 a picture that cannot be read or is too large,
            E3212 a broken label (names file and line), E3213 no labels at all.
    """
    count = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for name in ("train", "val"):
            pictures = sorted(p for path in data.splits[name] for p in pictures_in(data, path))
            if not pictures:
                raise DataError(
                    f"the {name} part of {data.source} has no pictures",
                    code="E3210",
                    why=(f"looked in {', '.join(map(str, data.splits[name]))}",),
                    fix=(f"suffixes that are read: {' '.join(_READ)}",),
                )
            for _ in pool.map(check_picture, pictures, chunksize=32):
                pass
            if task != "classify":
                _check_labels(data, task, name, pictures, pool)
            count += len(pictures)
    return count


def check_picture(path: Path) -> None:
    """Read a picture's header, and all of it where the header is no proof.

    Raises:
        DataError: E3211, not one of the formats, damaged, truncated, or above 100 megapixels.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise _unreadable(path, f"{width} x {height} is above 100 megapixels")
            if min(width, height) < 10:  # ultralytics drops such pictures without a word
                raise _unreadable(path, f"{width} x {height} pixels; the least is 10 x 10")
            if image.format not in ("JPEG", "MPO"):
                image.verify()
            elif not _ends_well(path):
                image.load()
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, ImportError, Warning) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unreadable(path, text) from error
    except Image.DecompressionBombError as error:
        raise _unreadable(path, "it is above 100 megapixels") from error


def check_label(
    path: Path, *, task: str, num_classes: int, kpt_shape: tuple[int, int] | None = None
) -> int:
    """Check one label file: whitespace-separated rows `class values...`, all but class in 0..1.

    Columns: detect 5 (or polygons in every row), segment 1 + 2 n with n >= 3, obb 9, pose
    5 + key points. Coordinates may leave 0..1 by 0.01, as in ultralytics.

    Returns:
        The number of rows.

    Raises:
        DataError: E3212, names file, line and value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as text", code="E3212") from error
    widths = set()
    rows = 0
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        rows += 1
        widths.add(len(words) == 5)
        problem = _problem(words, task, num_classes, kpt_shape)
        if problem is None and task == "detect" and len(widths) == 2:
            problem = "boxes (5 columns) and polygons are mixed in one file"
        if problem is not None:
            raise DataError(
                f"{path}:{number}: {problem}",
                code="E3212",
                why=(f"the row begins with: {' '.join(words[:6])[:80]}",),
                fix=("correct or delete the row",),
            )
    return rows


def _problem(
    words: list[str], task: str, num_classes: int, kpt_shape: tuple[int, int] | None
) -> str | None:
    if (asked := _columns(len(words), task, kpt_shape)) is not None:
        return f"{len(words)} columns, but {task} needs {asked}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        return "a value is not a finite number"
    kind = values[0]
    if kind != int(kind) or not 0 <= kind < num_classes:
        return f"class {words[0]} is not one of 0 to {num_classes - 1}"
    step = kpt_shape[1] if task == "pose" and kpt_shape else 2
    points = values[1:5] + [v for i, v in enumerate(values[5:]) if i % step < 2]
    outside = [v for v in points if not -_SLACK <= v <= 1 + _SLACK]
    if len(words) == 5 and min(values[3:5]) < 0:
        outside = [min(values[3:5])]
    if outside:
        return f"{outside[0]:g} is outside 0..1; coordinates are fractions of the picture"
    return None


def _columns(given: int, task: str, kpt_shape: tuple[int, int] | None) -> str | None:
    """What the task needs, or None when the number of columns is right."""
    is_polygon = given >= _POLYGON and given % 2 == 1
    if task == "detect":
        return None if given == 5 or is_polygon else "5 (class x y width height)"
    if task == "segment":
        return None if is_polygon else "a class and at least 3 points"
    if task == "obb":
        return None if given == 9 else "9 (class and 4 corners)"
    shape = kpt_shape or (0, 0)
    asked = 5 + shape[0] * shape[1]
    return None if given == asked else f"{asked} (class, box, {shape[0]} key points)"


def _check_labels(
    data: YoloData, task: str, name: str, pictures: list[Path], pool: ThreadPoolExecutor
) -> None:
    labels = [label for picture in pictures if (label := label_of(picture)).is_file()]

    def rows(label: Path) -> int:
        return check_label(label, task=task, num_classes=len(data.names), kpt_shape=data.kpt_shape)

    total = sum(pool.map(rows, labels, chunksize=32))
    if name == "train" and total == 0:
        raise DataError(
            f"no object is labelled in the {len(pictures)} train pictures of {data.source}",
            code="E3213",
            why=(f"{len(labels)} label files, such as {label_of(pictures[0])}, hold no rows",),
            fix=("labels lie in `labels/` beside `images/`, one .txt a picture",),
        )


def label_of(picture: Path) -> Path:
    """Where ultralytics looks: the last folder `images` becomes `labels`, the suffix .txt."""
    old, new = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(new.join(str(picture).rsplit(old, 1))).with_suffix(".txt")


def pictures_in(data: YoloData, path: Path) -> Iterator[Path]:
    """Every picture of a folder and below it, or of a file that lists them.

    Raises:
        DataError: E3203 or E3206, the list names an address, or a file outside of the data set.
    """
    if path.is_file():
        yield from _listed(data, path)
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            if name[0] != "." and Path(name).suffix.lower() in _SUFFIXES:
                yield Path(folder, name)


def _listed(data: YoloData, path: Path) -> Iterator[Path]:
    for text in filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())):
        if "://" in text:
            raise DataError(
                f"{path} lists an address: {text[:80]}",
                code="E3203",
                fix=("list files of this machine",),
            )
        picture = path.parent / text[2:] if text.startswith("./") else Path(text)
        if ".." in picture.parts and not picture.resolve().is_relative_to(data.root):
            raise DataError(f"{path} lists {text}, outside of {data.root}", code="E3206")
        yield picture


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"  # the JPEG end-of-image marker


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        f"the picture {path} cannot be used",
        code="E3211",
        why=(why,),
        fix=("repair or delete it, with its label",),
    )
