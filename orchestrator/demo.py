"""Data sets made on the spot from the real pictures inside scikit-learn, for the quickstart.

`digits-classify` is scikit-learn's 1,797 handwritten digit scans as a folder of class folders.
`digits-detect` places those scans on crops of its two photographs, with boxes in YOLO's format.
Scans and picture areas of the validation part never appear in the training part.
"""

import importlib.util
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.errors import ConfigError

__all__ = ["MADE", "make"]

_SEED = 20
_DETECT = {"train": 480, "val": 96}
_DETECT_SIDE = 128  # pixels, square
_CLASSIFY_SIDE = 32  # pixels, square; the scans are 8 x 8
_VERSION = 1  # part of the folder's name: a change of this module makes a new data set


def make(name: str, root: Path) -> Path:
    """Make the data set `name` under `root` unless it is there, and return what `data` needs.

    Returns the data.yaml of a detection set, or the folder of a classification set. The folder
    appears whole or not at all, so an interrupted call leaves nothing that looks finished.

    Raises:
        ConfigError: `name` is unknown, or scikit-learn is not installed.
    """
    if name not in MADE:
        raise ConfigError(
            f'there is no made data set "{name}"',
            code="E1040",
            fix=(f"use one of: {', '.join(f'made:{known}' for known in MADE)}",),
        )
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            f"the data set made:{name} needs scikit-learn, which carries its pictures",
            code="E1041",
            fix=('pip install "orchestrator[demo]"',),
        )
    folder = root / f"{name}-v{_VERSION}"
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        scratch = root / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        MADE[name](scratch, folder)
        try:
            scratch.rename(folder)
        except OSError:
            # Another process finished the same data set first; its content is the same.
            shutil.rmtree(scratch)
            if not folder.exists():
                raise
    return folder / "data.yaml" if (folder / "data.yaml").exists() else folder


def _split(count: int) -> dict[str, list[int]]:
    """Indices of the scans of each part: every fifth scan is for validation."""
    return {
        "train": [i for i in range(count) if i % 5],
        "val": [i for i in range(count) if not i % 5],
    }


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


def _classify(scratch: Path, _final: Path) -> None:
    scans, labels = _digits()
    for part, indices in _split(len(scans)).items():
        for i in indices:
            folder = scratch / part / str(labels[i])
            folder.mkdir(parents=True, exist_ok=True)
            _grey(scans[i], _CLASSIFY_SIDE).convert("RGB").save(folder / f"{i:04}.png")


def _grey(scan: Any, side: int) -> Image.Image:
    """A scan (8 x 8, values 0 to 16) as a grey picture of `side` pixels."""
    picture = Image.fromarray((scan * (255 / 16)).astype(np.uint8))
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def _detect(scratch: Path, final: Path) -> None:
    from sklearn.datasets import load_sample_images

    scans, _ = _digits()
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for part, indices in _split(len(scans)).items():
        (scratch / "images" / part).mkdir(parents=True)
        (scratch / "labels" / part).mkdir(parents=True)
        for number in range(_DETECT[part]):
            rng = random.Random(f"{_SEED}/{part}/{number}")
            picture, rows = _scene(rng, photos, part, [scans[i] for i in rng.choices(indices, k=4)])
            picture.save(scratch / "images" / part / f"{number:04}.jpg", quality=92)
            (scratch / "labels" / part / f"{number:04}.txt").write_text("".join(rows))
    # JSON is YAML: no dumper is needed for three fields.
    fields = {
        "path": str(final.resolve()),
        "train": "images/train",
        "val": "images/val",
        "names": ["digit"],
    }
    (scratch / "data.yaml").write_text(json.dumps(fields) + "\n")


def _scene(
    rng: random.Random, photos: list[Image.Image], part: str, digits: list[Any]
) -> tuple[Image.Image, list[str]]:
    """One crop of a photograph with 1 to 4 digits that do not overlap, and its label rows."""
    photo = rng.choice(photos)
    width, height = photo.size
    # The right quarter of each photograph is kept for validation.
    left, right = (0, width * 3 // 4) if part == "train" else (width * 3 // 4, width)
    side = rng.randint(_DETECT_SIDE, 160)
    x, y = rng.randint(left, right - side), rng.randint(0, height - side)
    picture = photo.crop((x, y, x + side, y + side)).resize((_DETECT_SIDE, _DETECT_SIDE))
    rows: list[str] = []
    taken: list[tuple[int, int, int]] = []
    for scan in digits[: rng.randint(1, 4)]:
        size = rng.randint(26, 52)
        spot = _free_spot(rng, size, taken)
        if spot is None:
            continue
        taken.append((*spot, size))
        _paste(rng, picture, scan, spot, size)
        box = ((spot[0] + size / 2), (spot[1] + size / 2), size, size)
        rows.append("0 " + " ".join(f"{value / _DETECT_SIDE:.6f}" for value in box) + "\n")
    return picture, rows


def _free_spot(
    rng: random.Random, size: int, taken: list[tuple[int, int, int]]
) -> tuple[int, int] | None:
    for _ in range(20):
        x, y = rng.randint(0, _DETECT_SIDE - size), rng.randint(0, _DETECT_SIDE - size)
        if all(x + size <= a or a + s <= x or y + size <= b or b + s <= y for a, b, s in taken):
            return x, y
    return None


def _paste(
    rng: random.Random, picture: Image.Image, scan: Any, at: tuple[int, int], size: int
) -> None:
    """Lay a scan on the picture as on a slip of paper: dark ink on a light ground, or inverted."""
    ink = np.asarray(_grey(scan, size), dtype=np.float32)[:, :, None] / 255
    dark = np.array([rng.randint(0, 70) for _ in range(3)], dtype=np.float32)
    light = np.array([rng.randint(180, 255) for _ in range(3)], dtype=np.float32)
    if rng.random() < 0.5:
        dark, light = light, dark
    slip = ink * dark + (1 - ink) * light
    picture.paste(Image.fromarray(slip.astype(np.uint8)), at)


MADE: dict[str, Callable[[Path, Path], None]] = {
    "digits-classify": _classify,
    "digits-detect": _detect,
}
