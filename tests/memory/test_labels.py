"""Boxes counted from label files, and what a batch of augmented images then holds."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import DataError
from orchestrator.memory.facts import CountedLabels
from orchestrator.memory.labels import LabelCounts, count_labels
from orchestrator.trainer.yolo_data import read_data_yaml
from tests.trainer.yolo_pictures import make_yolo_data


def counts(*boxes: int) -> LabelCounts:
    return LabelCounts(counts=np.array(boxes, np.int64), area=0.1)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_every_box_of_the_files_counts(tmp_path: Path, task: str) -> None:
    data = read_data_yaml(make_yolo_data(tmp_path, train=7, val=4, task=task))
    train, val = (count_labels(data, split, task=task) for split in ("train", "val"))
    assert sorted(train.counts.tolist()) == [1, 1, 1, 2, 2, 3, 3][:7] or train.counts.sum() == 13
    assert val.validation().most == 3
    assert val.validation().mean == pytest.approx(7 / 4)
    assert 0.03 < train.area < 0.3  # sides of a fifth to a half of the picture


def test_a_picture_without_labels_is_background(tmp_path: Path) -> None:
    data = read_data_yaml(make_yolo_data(tmp_path, train=4))
    before = count_labels(data).counts.sum()
    gone = tmp_path / "labels" / "train" / "2.txt"
    boxes = len(gone.read_text().splitlines())
    gone.unlink()
    (tmp_path / "labels" / "train" / "0.txt").write_text("\n")
    after = count_labels(data).counts
    assert len(after) == 4
    assert after.sum() == before - boxes - 1


def test_labels_that_were_counted_are_not_read_again(tmp_path: Path) -> None:
    data = read_data_yaml(make_yolo_data(tmp_path, train=4, val=2))
    counted = CountedLabels()
    before = counted.of(data, "train", "detect").counts.sum()
    for file in (tmp_path / "labels" / "train").glob("*.txt"):
        file.write_text("")
    assert counted.of(data, "train", "detect").counts.sum() == before > 0
    assert counted.of(data, "val", "detect").counts.sum() > 0
    assert CountedLabels().of(data, "train", "detect").counts.sum() == 0


@pytest.mark.parametrize(
    "row", ["0 0.5 0.5 0.1", "0 0.5 0.5 x 0.1", "0 0.5 0.5 nan 0.1", "0 0.5 0.5 9 9", "\xff"]
)
def test_a_broken_row_is_named_with_its_file(tmp_path: Path, row: str) -> None:
    data = read_data_yaml(make_yolo_data(tmp_path))
    bad = tmp_path / "labels" / "train" / "3.txt"
    bad.write_text(row, encoding="latin-1")
    with pytest.raises(DataError) as raised:
        count_labels(data)
    assert raised.value.code == "E3212"
    assert str(bad) in raised.value.what


def test_a_split_without_pictures_is_an_error(tmp_path: Path) -> None:
    data = read_data_yaml(make_yolo_data(tmp_path))
    with pytest.raises(DataError) as raised:
        count_labels(data, "test")
    assert raised.value.code == "E3210"


def test_mosaic_puts_four_images_together() -> None:
    same = counts(5, 5, 5)
    assert same.training(8).most == 20
    assert same.training(8).mean == 20
    assert same.training(8, mosaic=0).most == 5
    assert same.training(8, mixup=1).most == 40
    assert 5 < same.training(8, mosaic=0.5).mean < 20


def test_more_images_in_a_batch_have_a_higher_maximum_up_to_four_of_the_worst() -> None:
    varied = counts(*range(100))
    most = [varied.training(batch).most for batch in (1, 4, 16, 64, 256)]
    assert most == sorted(most)
    assert len(set(most)) == 5
    assert most[-1] <= 4 * 99
    assert varied.training(16, mosaic=0).most == 99


def test_the_most_is_rarely_exceeded_and_not_far_above() -> None:
    chance = np.random.default_rng(3)
    varied = LabelCounts(counts=chance.poisson(20, 500), area=0.1)
    most = varied.training(16).most
    seen = varied.draws(16, 3000)
    assert sum(count > most for count in seen) <= 12  # 3 are expected
    assert most <= 1.15 * max(seen)


def test_the_same_data_give_the_same_labels() -> None:
    assert counts(1, 2, 9).training(8) == counts(1, 2, 9).training(8)
    assert counts(1, 2, 9).draws(4, 10) == counts(1, 2, 9).draws(4, 10)


def test_no_images_have_no_labels() -> None:
    assert counts().training(4).most == counts().validation().most == 0


@pytest.mark.parametrize(("name", "value"), [("mixup", 1.0), ("cutmix", 1.0), ("copy_paste", 1.0)])
def test_what_is_put_over_an_image_brings_its_boxes(name: str, value: float) -> None:
    three = counts(*[3] * 50)
    plain, more = three.training(4), three.training(4, **{name: value})
    assert (plain.most, plain.mean) == (12, 12.0)
    assert (more.most, more.mean) == (24, 24.0)
