"""What goes along to a cluster: config and code; no data, runs or keys, nothing from outside."""

import os
from pathlib import Path

import pytest

from orchestrator.client import upload as uploading
from orchestrator.client.upload import Upload, put_together, staged
from orchestrator.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in (
        "exp.yaml",
        "code/train.py",
        "code/token.py",
        "cells/data.yaml",
        "cells/train/a.txt",
        "runs/old/log.yaml",
        ".git/config",
        ".env",
        "best.pt",
        "night-token",
        "deploy.pem",
        "photo.jpg",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return folder


def names(upload: Upload) -> list[str]:
    return [file.name for file in upload.files]


def test_code_and_config_go_along_and_everything_else_stays_with_its_reason(project: Path) -> None:
    upload = put_together(project, project / "exp.yaml", data=[project / "cells" / "data.yaml"])
    assert names(upload) == ["code/token.py", "code/train.py", "exp.yaml"]
    assert upload.left_out == {
        "data of the config": 1,
        "folders of data, runs and builds": 1,
        "hidden": 2,
        "weights": 1,
        "keys": 2,
        "pictures and films": 1,
    }


def test_patterns_leave_out_and_take_along(project: Path) -> None:
    upload = put_together(
        project, project / "exp.yaml", excludes=["code/", "cells"], includes=["best.pt"]
    )
    assert names(upload) == ["best.pt", "exp.yaml"]


def test_a_data_file_beside_the_config_leaves_only_itself_out(project: Path) -> None:
    (project / "data.yaml").write_text("train: train\n")
    upload = put_together(project, project / "exp.yaml", data=[project / "data.yaml"])
    assert "data.yaml" not in names(upload)
    assert "code/train.py" in names(upload)


def test_a_staged_folder_holds_exactly_what_was_listed(project: Path, tmp_path: Path) -> None:
    (project / "code" / "again.py").symlink_to(project / "code" / "train.py")
    upload = put_together(project, project / "exp.yaml")
    into = tmp_path / "staged"
    staged(upload, into)
    found = sorted(p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file())
    assert found == names(upload)
    assert not any(path.is_symlink() for path in into.rglob("*"))
    assert (into / "code" / "again.py").read_text() == "code/train.py\n"


def test_the_digest_is_that_of_names_and_contents(project: Path) -> None:
    first = put_together(project, project / "exp.yaml").digest
    assert put_together(project, project / "exp.yaml").digest == first
    (project / "code" / "train.py").write_text("changed\n")
    assert put_together(project, project / "exp.yaml").digest != first


def test_a_file_that_changes_meanwhile_is_told(project: Path, tmp_path: Path) -> None:
    upload = put_together(project, project / "exp.yaml")
    (project / "exp.yaml").write_text("changed\n")
    with pytest.raises(ConfigError) as info:
        staged(upload, tmp_path / "staged")
    assert info.value.code == "E1085"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_out_of_the_folder_is_refused(
    project: Path, tmp_path: Path, is_folder: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.yaml").write_text("x")
    (project / "link").symlink_to(outside if is_folder else outside / "secret.yaml")
    with pytest.raises(ConfigError) as info:
        put_together(project, project / "exp.yaml")
    assert info.value.code == "E1083"
    assert put_together(project, project / "exp.yaml", excludes=["link"]).files


@pytest.mark.parametrize("name", ["line\nbreak.py", "back\\slash.py", "bell\x07.py"])
def test_a_name_that_could_mean_something_else_elsewhere_is_refused(
    project: Path, name: str
) -> None:
    (project / name).write_text("x")
    with pytest.raises(ConfigError) as info:
        put_together(project, project / "exp.yaml")
    assert info.value.code == "E1082"


def test_a_pipe_is_refused_before_anybody_waits_for_it(project: Path) -> None:
    os.mkfifo(project / "pipe.py")
    with pytest.raises(ConfigError) as info:
        put_together(project, project / "exp.yaml")
    assert info.value.code == "E1082"


def test_a_config_from_elsewhere_is_refused(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("x")
    for config in (other, project / ".." / "other.yaml"):
        with pytest.raises(ConfigError) as info:
            put_together(project, config)
        assert info.value.code == "E1081"


def test_too_much_is_refused_with_the_largest_files_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "MAX_BYTES", 1024)
    (project / "big.csv").write_text("x" * 2048)
    with pytest.raises(ConfigError) as info:
        put_together(project, project / "exp.yaml")
    assert info.value.code == "E1084"
    assert any("big.csv" in line for line in info.value.why)
