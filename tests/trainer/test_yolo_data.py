"""Data sets are refused with the file, the line and the remedy, before anything is trained."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.errors import DataError
from orchestrator.trainer.yolo_data import read_class_folders, read_data_yaml
from orchestrator.trainer.yolo_labels import check_data, check_label, check_picture
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_yolo_data(tmp_path / "set")


def change(file: Path, **fields: object) -> None:
    content = yaml.safe_load(file.read_text()) | fields
    file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


def code_of(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_data_yaml(file)
    assert str(file) in caught.value.what
    assert caught.value.fix
    return caught.value.code


def test_what_is_written_again_says_the_same_with_absolute_paths(
    data: Path, tmp_path: Path
) -> None:
    found = read_data_yaml(data)
    written = found.write(tmp_path / "attempt")
    content = yaml.safe_load(written.read_text())
    assert set(content) == {"path", "train", "val", "names", "channels"}
    assert all(Path(p).is_absolute() and Path(p).exists() for p in content["train"])
    again = read_data_yaml(written)
    assert (again.names, again.splits) == (found.names, found.splits)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"download": "print(1)"}, "E3203"),
        ({"train": "https://example.org/a.zip"}, "E3203"),
        ({"path": "ul://user/datasets/a"}, "E3203"),
        ({"trains": "images/train"}, "E3204"),
        ({"masks_dir": "masks"}, "E3204"),
        ({"train": None}, "E3205"),
        ({"val": None}, "E3205"),
        ({"names": None}, "E3205"),
        ({"nc": 3}, "E3205"),
        ({"names": {0: "a", 2: "b"}}, "E3205"),
        ({"names": [["a"], "b"]}, "E3205"),
        ({"kpt_shape": [17, 4]}, "E3205"),
        ({"channels": "3"}, "E3205"),
        ({"train": "../../etc"}, "E3206"),
        ({"val": "images/none"}, "E3207"),
        ({"path": "/no/such/place"}, "E3207"),
    ],
)
def test_a_wrong_field_is_named_by_its_code(
    data: Path, fields: dict[str, object], code: str
) -> None:
    change(data, **fields)
    assert code_of(data) == code


@pytest.mark.parametrize("text", ["- a\n- b\n", "train: [", "a: &x 1\nb: *x\n", "\x00", "1"])
def test_what_is_not_a_plain_mapping_is_refused(data: Path, text: str) -> None:
    data.write_text(text)
    assert code_of(data) == "E3202"


def test_a_missing_file_says_that_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_data_yaml(tmp_path / "coco8.yaml")
    assert caught.value.code == "E3201"
    assert "download" in caught.value.why[0]


@given(text=st.text(max_size=60))
def test_no_text_is_read_as_a_data_set_or_ends_in_another_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("any") / "data.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DataError):
        read_data_yaml(file)


def test_good_data_passes_and_every_picture_is_counted(data: Path) -> None:
    assert check_data(read_data_yaml(data), "detect") == 12


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_labels_of_every_task_pass(tmp_path: Path, task: str) -> None:
    assert check_data(read_data_yaml(make_yolo_data(tmp_path / "set", task=task)), task) == 12


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ("0 0.5 0.5 0.1", "detect"),
        ("0 0.5 0.5 0.1 0.1 0.1", "detect"),
        ("0 0.5 0.5 0.1 nan", "detect"),
        ("0 0.5 0.5 0.1 inf", "detect"),
        ("0 0.5 0.5 0.1 x", "detect"),
        ("2 0.5 0.5 0.1 0.1", "detect"),
        ("-1 0.5 0.5 0.1 0.1", "detect"),
        ("0.5 0.5 0.5 0.1 0.1", "detect"),
        ("0 1.5 0.5 0.1 0.1", "detect"),
        ("0 -0.2 0.5 0.1 0.1", "detect"),
        ("0 0.5 0.5 -0.001 0.1", "detect"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9", "detect"),  # a polygon after a box
        ("0 0.5 0.5 0.1 0.1", "segment"),
        ("0 0.5 0.5 0.1 0.1", "obb"),
        ("0 0.5 0.5 0.1 0.1 0.5 0.5", "pose"),
        ("0 0.5 0.5 0.1 0.1 0.5 2.5 1 0.5 0.5 1", "pose"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path, row: str, task: str) -> None:
    good = {
        "detect": "1 0.5 0.5 0.2 0.2",
        "segment": "1 0.1 0.1 0.9 0.1 0.9 0.9",
        "obb": "1 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9",
        "pose": "1 0.5 0.5 0.1 0.1 0.5 0.5 2 0.4 0.4 0",
    }[task]
    label = tmp_path / "a.txt"
    label.write_text(f"{good}\n\n{row}\n")
    with pytest.raises(DataError) as caught:
        check_label(label, task=task, num_classes=2, kpt_shape=(2, 3))
    assert f"{label}:3:" in caught.value.what
    assert caught.value.code == "E3212"


def test_a_polygon_file_is_good_for_detection(tmp_path: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.1 0.1 0.9 0.1 0.9 0.9 0.5 0.5\n")
    assert check_label(label, task="detect", num_classes=2) == 2


def test_a_broken_label_stops_the_data_set(data: Path) -> None:
    (data.parent / "labels/val/1.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"labels/val/1\.txt:1"):
        check_data(read_data_yaml(data), "detect")


def test_a_set_without_any_label_is_refused(data: Path) -> None:
    for label in (data.parent / "labels/train").iterdir():
        label.unlink()
    with pytest.raises(DataError) as caught:
        check_data(read_data_yaml(data), "detect")
    assert caught.value.code == "E3213"


def damaged_pictures(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    whole = folder / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    made = {name: folder / name for name in ("text.jpg", "cut.jpg", "cut.png", "tiny.png", "a.gif")}
    made["text.jpg"].write_text("not a picture")
    made["cut.jpg"].write_bytes(whole.read_bytes()[:-200])
    Image.effect_noise((64, 64), 50).save(folder / "whole.png")
    made["cut.png"].write_bytes((folder / "whole.png").read_bytes()[:-200])
    Image.new("RGB", (4, 64)).save(made["tiny.png"])
    Image.new("P", (64, 64)).save(made["a.gif"])
    check_picture(whole)
    check_picture(folder / "whole.png")
    return made


def test_pictures_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for path in damaged_pictures(tmp_path / "pictures").values():
        with pytest.raises(DataError) as caught:
            check_picture(path)
        assert str(path) in caught.value.what
        assert caught.value.code == "E3211"


def test_a_picture_above_100_megapixels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (11_000, 10_000)).save(path)
    with pytest.raises(DataError) as caught:
        check_picture(path)
    assert caught.value.code == "E3211"


def test_lists_of_pictures_stay_on_this_machine_and_in_the_set(data: Path) -> None:
    listing = data.parent / "train.txt"
    change(data, train="train.txt")
    listing.write_text("./images/train/0.png\n")
    assert check_data(read_data_yaml(data), "detect") == 5
    for line, code in (("https://example.org/a.png", "E3203"), ("./../../a.png", "E3206")):
        listing.write_text(line)
        with pytest.raises(DataError) as caught:
            check_data(read_data_yaml(data), "detect")
        assert caught.value.code == code


def test_class_folders_need_both_parts_with_the_same_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        read_class_folders(tmp_path / "none")
    make_pictures(tmp_path / "train", classes=2, each=2)
    with pytest.raises(DataError, match="val path"):
        read_class_folders(tmp_path)
    make_pictures(tmp_path / "val", classes=3, each=1)
    with pytest.raises(DataError, match="class2"):
        read_class_folders(tmp_path)
    make_pictures(tmp_path / "train", classes=3, each=2)
    found = read_class_folders(tmp_path)
    assert found.names == ("class0", "class1", "class2")
    assert check_data(found, "classify") == 9
