"""Small data sets of class folders, made on the spot: stripes and blobs in class colours."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_pictures"]


def make_pictures(
    folder: Path, *, classes: int = 3, each: int = 8, size: int = 40, seed: int = 0
) -> Path:
    """Write `<folder>/class<i>/<j>.png`; a class is the direction of its stripes, with noise."""
    chance = np.random.default_rng(seed)
    grid = np.linspace(0, 6 * np.pi, size)
    for label in range(classes):
        angle = np.pi * label / classes
        wave = np.sin(np.cos(angle) * grid[:, None] + np.sin(angle) * grid[None, :])
        for number in range(each):
            noise = chance.normal(0, 30, (size, size, 3))
            pixels = np.clip(128 + 80 * wave[:, :, None] + noise, 0, 255).astype(np.uint8)
            path = folder / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder
