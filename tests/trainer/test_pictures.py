"""Pictures are found, refused and fed by rules that do not depend on how they are loaded."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.trainer.loading import EpochOrder, PictureFolder, batches, close, picture_loader
from orchestrator.trainer.pictures import PictureSet, decoded_bytes, find_pictures, read_picture
from orchestrator.trainer.randomness import (
    keyed_seed,
    load_state,
    random_state,
    save_state,
    set_random_state,
)
from orchestrator.types import BatchPlan
from tests.trainer.picture_folders import make_pictures


def png_of_size(path: Path, width: int, height: int) -> None:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )


def test_given_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    make_pictures(tmp_path / "train", classes=3, each=4, size=8)
    make_pictures(tmp_path / "val", classes=3, each=2, size=8)
    (tmp_path / "train" / "class0" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / ".cache").mkdir()
    train, val = find_pictures(tmp_path, seed=0)
    assert (len(train), len(val)) == (12, 6)
    assert train.classes == val.classes == ("class0", "class1", "class2")
    assert [Path(p).parent.name for p in val.paths] == [f"class{i}" for i in val.labels]


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_val_folder_a_fifth_of_each_class_is_set_aside(
    tmp_path: Path, below: str
) -> None:
    make_pictures(tmp_path / below, classes=2, each=10, size=8)
    train, val = find_pictures(tmp_path, seed=5)
    assert not set(train.paths) & set(val.paths)
    assert len(train) + len(val) == 20
    assert sorted(val.labels) == [0, 0, 1, 1]
    assert find_pictures(tmp_path, seed=5) == (train, val)
    assert find_pictures(tmp_path, seed=6) != (train, val)


@given(count=st.integers(1, 60), fraction=st.floats(1e-6, 1))
def test_a_part_is_spread_over_the_classes_and_takes_no_picture_twice(
    count: int, fraction: float
) -> None:
    whole = PictureSet(
        paths=tuple(map(str, range(3 * count))),
        labels=tuple(at // count for at in range(3 * count)),
        classes=("a", "b", "c"),
    )
    part = whole.part(fraction)
    assert len(part) == max(1, round(fraction * len(whole)))
    assert len(set(part.paths)) == len(part)
    assert [int(path) // count for path in part.paths] == list(part.labels)
    sizes = [part.labels.count(label) for label in range(3)]
    assert max(sizes) - min(sizes) <= 1
    assert whole.part(1.0) == whole


def test_a_data_set_that_cannot_be_trained_on_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        find_pictures(tmp_path / "nowhere", seed=0)
    with pytest.raises(DataError, match="0 class folders"):
        find_pictures(tmp_path, seed=0)
    make_pictures(tmp_path / "train", classes=2, each=2, size=8)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="1 of them without pictures") as caught:
        find_pictures(tmp_path, seed=0)
    assert "empty" in caught.value.why[0]
    (tmp_path / "train" / "empty").rmdir()
    make_pictures(tmp_path / "val", classes=3, each=2, size=8)
    with pytest.raises(DataError, match="1 classes that") as caught:
        find_pictures(tmp_path, seed=0)
    assert "class2" in caught.value.why[0]


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "gif", "bomb"])
def test_a_file_that_is_no_sound_picture_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.png"
    sound = Image.effect_noise((64, 64), 50)
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        sound.save(path)
        path.write_bytes(path.read_bytes()[:-600])
    elif kind == "gif":
        sound.save(path, format="GIF")
    else:
        png_of_size(path, 10_001, 10_000)
    with pytest.raises(DataError, match=r"bad\.png"):
        read_picture(str(path))


def test_headers_tell_the_bytes_and_the_damaged_files(tmp_path: Path) -> None:
    make_pictures(tmp_path, classes=2, each=5, size=10)
    train, val = find_pictures(tmp_path, seed=0)
    assert decoded_bytes(train, threads=2) + decoded_bytes(val, threads=2) == 10 * 300
    Path(train.paths[3]).write_text("hello")
    with pytest.raises(DataError, match=Path(train.paths[3]).name):
        decoded_bytes(train, threads=2)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(path)
    image = read_picture(str(path))
    assert image.mode == "RGB"
    assert image.size == (6, 4)
    if mode == "I;16":
        assert image.getpixel((0, 0)) == (156, 156, 156)  # 40,000 / 256


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the right side is the top
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert read_picture(str(path)).size == (4, 6)


def whole(batch: int) -> BatchPlan:
    return BatchPlan(effective_batch=batch, world_size=1, micro_batch=batch)


@given(
    num_samples=st.integers(1, 50),
    batch=st.integers(3, 20),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_ranks_share_each_step_and_no_sample_comes_twice_in_an_epoch(
    num_samples: int, batch: int, world_size: int, seed: int
) -> None:
    plan = BatchPlan(effective_batch=batch, world_size=world_size, micro_batch=1)
    orders = [EpochOrder(num_samples, batch=plan, seed=seed, rank=n) for n in range(world_size)]
    steps = [list(order) for order in orders]
    assert {len(s) for s in steps} == {num_samples // batch}
    shares = [len(part) for rank in steps for part in rank[:1]]
    assert not shares or (sum(shares) == batch and max(shares) - min(shares) <= 1)
    taken = [index for rank in steps for step in rank for _, index in step]
    assert len(set(taken)) == len(taken)
    single = EpochOrder(num_samples, batch=whole(batch), seed=seed)
    joined = [[key for part in parts for key in part] for parts in zip(*steps, strict=True)]
    assert joined == list(single)


def test_another_epoch_has_another_order() -> None:
    order = EpochOrder(100, batch=whole(10), seed=0)
    first = list(order)
    order.epoch = 2
    assert [[i for _, i in step] for step in order] != [[i for _, i in step] for step in first]


def noisy(image: Image.Image) -> Tensor:
    """As random as the transforms of timm: numpy's, Python's and torch's generators."""
    return torch.tensor([np.random.rand(), torch.rand(()).item()]) + image.width


@pytest.mark.parametrize("is_cached", [False, True])
def test_what_is_loaded_does_not_depend_on_who_loads_it(tmp_path: Path, is_cached: bool) -> None:
    make_pictures(tmp_path, classes=2, each=10, size=8)
    train, _ = find_pictures(tmp_path, seed=0)
    seen = []
    for workers in (0, 2):
        pictures = PictureFolder(train, noisy, seed=0)
        if is_cached:
            pictures.keep_decoded(threads=2)
        order = EpochOrder(len(train), batch=whole(4), seed=0)
        loader = picture_loader(pictures, order, workers=workers, pin_memory=False)
        torch.manual_seed(workers)
        expected = torch.rand(3, generator=torch.Generator().manual_seed(workers))
        found = []
        for epoch in (1, 2):
            order.epoch = epoch
            found += [torch.cat([x.flatten(), y]) for x, y in batches(loader)]
        seen.append(torch.stack(found))
        assert torch.equal(torch.rand(3), expected), "loading drew from the training's generator"
    assert torch.equal(seen[0], seen[1])
    first, second = seen[0].chunk(2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named_whoever_loads_it(tmp_path: Path, workers: int) -> None:
    make_pictures(tmp_path, classes=2, each=5, size=8)
    train, _ = find_pictures(tmp_path, seed=0)
    Path(train.paths[2]).write_text("hello")
    loader = picture_loader(
        PictureFolder(train, noisy, seed=0),
        EpochOrder(len(train), batch=whole(4), seed=0),
        workers=workers,
        pin_memory=False,
    )
    with pytest.raises(DataError, match=Path(train.paths[2]).name) as caught:
        list(batches(loader))
    close(loader)
    assert caught.value.fix


def test_chance_goes_on_where_it_was_captured(tmp_path: Path) -> None:
    import random

    def draw() -> tuple[float, float, float, float]:
        return random.random(), np.random.rand(), np.random.normal(), torch.rand(()).item()

    np.random.normal()
    path = tmp_path / "state"
    with path.open("wb") as file:
        save_state(random_state(), file)
    expected = [draw() for _ in range(3)]
    with path.open("rb") as written:
        set_random_state(load_state(written))
    assert [draw() for _ in range(3)] == expected


def test_keys_that_differ_in_any_part_give_other_seeds() -> None:
    keys = [(0, "a", e, i) for e in range(20) for i in range(50)] + [(1, "a", 0, 0), (0, "b", 0, 0)]
    seeds = [keyed_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
