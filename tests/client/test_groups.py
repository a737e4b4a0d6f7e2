"""The group of a picture: by its name, by its path, or by a table; or a refusal that says why."""

from pathlib import Path

import pytest

from orchestrator.client.groups import groups_of
from orchestrator.errors import DataError

NAMES = ("train/p1_a.png", "train/p1_b.png", "val/p2_a.png")


def test_a_regular_expression_is_looked_for_in_the_name() -> None:
    assert groups_of(NAMES, r"^(p\d+)_") == ("p1", "p1", "p2")
    assert groups_of(NAMES, r"^p\d+") == ("p1", "p1", "p2")


def test_with_a_slash_it_is_looked_for_in_the_path() -> None:
    assert groups_of(NAMES, r"^(\w+)/") == ("train", "train", "val")


def test_a_table_names_pictures_by_their_path_or_by_a_name_of_their_own(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("group,file\nx,train/p1_a.png\ny,p1_b.png\nx,p2_a.png\nz,elsewhere.png\n")
    assert groups_of(NAMES, str(table)) == ("x", "y", "x")


@pytest.mark.parametrize(
    ("by", "code", "told"),
    [
        ("patient", "E3303", "matches none of 3 pictures"),
        ("p2", "E3304", "gives 2 of 3 pictures no group"),
    ],
)
def test_a_key_that_does_not_group_every_picture_is_refused(by: str, code: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        groups_of(NAMES, by)
    assert refused.value.code == code
    assert "train/p1_a.png" in refused.value.why[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,group\na,b\n", "its first line is not file,group"),
        ("file,group\n,b\n", "line 2 has no file or no group"),
        ("file,group\nval/p2_a.png\n", "line 2 has no file or no group"),
        ("file,group\nval/p2_a.png,x\nval/p2_a.png,y\n", "line 3: val/p2_a.png has two groups"),
        ("file,group\nsame.png,x\n", "same.png is the name of 2 pictures"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(text: str, told: str, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text(text)
    with pytest.raises(DataError) as refused:
        groups_of((*NAMES, "train/same.png", "val/same.png"), str(table))
    assert refused.value.code == "E3305"
    assert told in refused.value.why[0]


def test_a_table_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes.csv", "none.csv"):
        with pytest.raises(DataError) as refused:
            groups_of(NAMES, str(tmp_path / name))
        assert refused.value.code == "E3305"


def test_a_table_without_a_row_for_any_picture_matches_none(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("file,group\nother.png,x\n")
    with pytest.raises(DataError) as refused:
        groups_of(NAMES, str(table))
    assert refused.value.code == "E3303"
