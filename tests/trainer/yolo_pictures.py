"""Small YOLO data sets made on the spot: bright squares on noise, one class a brightness."""

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["make_yolo_data"]


def make_yolo_data(
    folder: Path, *, train: int = 8, val: int = 4, size: int = 64, task: str = "detect"
) -> Path:
    """Write pictures, labels and a data.yaml; return the data.yaml."""
    chance = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(0, 60, (size, size, 3)).astype(np.uint8)
            rows = []
            for _ in range(1 + number % 3):
                label = int(chance.integers(0, 2))
                side = int(chance.integers(size // 5, size // 2))
                x, y = (int(v) for v in chance.integers(0, size - side, 2))
                pixels[y : y + side, x : x + side] = 120 + 110 * label
                rows.append(_row(task, label, x / size, y / size, side / size))
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
            (folder / "labels" / part / f"{number}.txt").write_text("\n".join(rows) + "\n")
    lines = ["train: images/train", "val: images/val", "names: [dark, bright]"]
    if task == "pose":
        lines.append("kpt_shape: [2, 3]")
    file = folder / "data.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file


def _row(task: str, label: int, x: float, y: float, side: float) -> str:
    box = (x + side / 2, y + side / 2, side, side)
    corners = (x, y, x + side, y, x + side, y + side, x, y + side)
    values = {
        "detect": box,
        "segment": corners,
        "obb": corners,
        "pose": (*box, x, y, 2, x + side, y + side, 2),
    }[task]
    return " ".join([str(label), *(f"{value:.6f}" for value in values)])
