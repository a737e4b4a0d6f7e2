"""Pictures in class folders: found, split, checked before training, and read safely."""

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from orchestrator.errors import DataError
from orchestrator.types import Bytes

__all__ = ["PictureSet", "decoded_bytes", "find_pictures", "read_picture"]

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # decoders that may run; all others never do
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 100_000_000  # more than any camera in use, less than a decompression bomb needs
VAL_SHARE = 0.2  # of each class, where the data set has no val folder


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """Paths of pictures with their class numbers; `classes` are the names, sorted."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, fraction: float) -> "PictureSet":
        """So large a part of the pictures, at least one, spread evenly over the classes."""
        count = max(1, round(fraction * len(self)))
        chosen = [at * len(self) // count for at in range(count)]
        return PictureSet(
            paths=tuple(self.paths[at] for at in chosen),
            labels=tuple(self.labels[at] for at in chosen),
            classes=self.classes,
        )


def find_pictures(folder: Path, seed: int) -> tuple[PictureSet, PictureSet]:
    """Find the training and the validation pictures of a data set.

    Args:
        folder: Holds `train/<class>` and `val/<class>`, or `<class>` alone (also below `train`):
            then a fifth of each class is set aside for validation, the same for the same seed.
            Or a file that lists them (`trainer.picture_lists`).
        seed: Decides the fifth.

    Raises:
        DataError: A folder is missing or empty, there are fewer than two classes, or `val` has
            a class that `train` does not have.
    """
    if folder.name.endswith(".pictures.json"):
        from orchestrator.trainer.picture_lists import read_lists

        return read_lists(folder)
    if not folder.is_dir():
        raise DataError(
            f"the data set {folder} is not a folder",
            code="E3101",
            fix=("data: a folder with train/<class>/ and val/<class>/, or <class>/ alone",),
        )
    train = folder / "train"
    val = next((folder / n for n in ("val", "validation") if (folder / n).is_dir()), None)
    if not train.is_dir():
        return _split(folder, _classes(folder), seed)
    if val is None:
        return _split(train, _classes(train), seed)
    known, tested = _classes(train), _classes(val)
    if strange := sorted(set(tested) - set(known)):
        raise DataError(
            f"{val} has {len(strange)} classes that {train} does not have",
            code="E3102",
            why=(f"without training pictures: {', '.join(strange[:10])}",),
            fix=("give both folders the same class folders",),
        )
    if untested := sorted(set(known) - set(tested)):
        log.warning("no validation pictures of %s", ", ".join(untested))
    return _picture_set(known, tuple(known)), _picture_set(tested, tuple(known))


def decoded_bytes(pictures: PictureSet, threads: int) -> Bytes:
    """Read every header and return the bytes that all pictures take when decoded.

    Raises:
        DataError: A file is not a picture, or has more than 100 megapixels; names the first.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return sum(pool.map(_header_bytes, pictures.paths, chunksize=64))


def read_picture(path: str) -> Image.Image:
    """Decode a picture, upright and in RGB.

    Raises:
        DataError: Not one of the formats, damaged, truncated, or more than 100 megapixels.
    """
    return _guarded(path, _upright)


def _classes(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    other = 0
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith("."):
            continue
        files = [f for f in sorted(child.rglob("*")) if f.is_file() and f.name[0] != "."]
        found[child.name] = [str(f) for f in files if f.suffix.lower() in SUFFIXES]
        other += len(files) - len(found[child.name])
    if other:
        log.warning("%s: %d files are not pictures of a known format", folder, other)
    empty = [name for name, paths in found.items() if not paths]
    if empty or len(found) < 2:
        raise DataError(
            f"{folder} has {len(found)} class folders, {len(empty)} of them without pictures",
            code="E3104",
            why=(f"empty: {', '.join(empty[:10])}",) if empty else (),
            fix=(
                "at least 2 class folders, each with pictures",
                f"suffixes that are read: {' '.join(sorted(SUFFIXES))}",
            ),
        )
    return found


def _split(folder: Path, found: dict[str, list[str]], seed: int) -> tuple[PictureSet, PictureSet]:
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, paths in found.items():
        if len(paths) < 2:
            raise DataError(
                f"the class {name} of {folder} has 1 picture, and no val folder",
                code="E3105",
                fix=("a split needs at least 2 pictures a class",),
            )
        mixed = random.Random(f"{seed}/split/{name}").sample(paths, len(paths))
        num_val = max(1, round(VAL_SHARE * len(paths)))
        train[name], val[name] = sorted(mixed[num_val:]), sorted(mixed[:num_val])
    sets = _picture_set(train, tuple(found)), _picture_set(val, tuple(found))
    log.warning(
        "%s has no val folder: %d pictures train, %d validate, split by class with seed %d",
        folder,
        len(sets[0]),
        len(sets[1]),
        seed,
    )
    return sets


def _picture_set(found: dict[str, list[str]], classes: tuple[str, ...]) -> PictureSet:
    pairs = [(path, classes.index(name)) for name, paths in found.items() for path in paths]
    return PictureSet(
        paths=tuple(path for path, _ in pairs),
        labels=tuple(label for _, label in pairs),
        classes=classes,
    )


def _guarded(path: str, use: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image)
            return use(image)
    except MemoryError:  # says nothing about the file
        raise
    # Decoders raise all kinds for damaged files: SyntaxError, struct.error, EOFError, IndexError...
    except Exception as error:
        raise DataError(
            f"the picture {path} cannot be read",
            code="E3103",
            why=(str(error).replace(path, "the file") or type(error).__name__,),
            fix=("replace the file or take it out of the data set",),
        ) from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")


def _header_bytes(path: str) -> Bytes:
    size: Bytes = _guarded(path, lambda image: image.width * image.height * 3)
    return size


def _upright(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies what is upright already
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
