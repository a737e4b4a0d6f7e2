"""`runs:` as an address: a known kind, a place in it, and no secrets."""

from pathlib import Path

import pytest

from orchestrator.config.load import load_config
from orchestrator.errors import ConfigError
from orchestrator.types import RunId


def config_of(folder: Path, runs: str) -> Path:
    path = folder / "exp.yaml"
    path.write_text(f"runs: {runs}\nname: cells\nmodel: yolo11n.yaml\ndata: none.yaml\n")
    return path


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        (
            "s3://bucket/a?region=eu-west-1&scheme=http",
            "s3://bucket/a?region=eu-west-1&scheme=http",
        ),
        ("gs://bucket", "gs://bucket"),
        ("gs://anonymous@bucket/x", "gs://anonymous@bucket/x"),
        ("abfs://container@account.dfs.core.windows.net/x",) * 2,
        ("file:///shared/runs/", "file:///shared/runs"),
    ],
)
def test_runs_are_kept_at_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, kept: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(config_of(tmp_path, written), ())
    assert config.storage == config.runs_as_written == kept
    assert config.runs == tmp_path / "runs"
    run = config.projects[0].spec(RunId("run-1"), config.runs / "cells" / "run-1")
    head, _, query = kept.partition("?")
    assert run.address == f"{head}/cells/run-1" + (f"?{query}" if query else "")


def test_a_folder_is_no_address(tmp_path: Path) -> None:
    config = load_config(config_of(tmp_path, "/data/runs"), ())
    assert (config.storage, config.runs_as_written) == ("", "/data/runs")
    assert config.projects[0].spec(RunId("run-1"), tmp_path).address == ""


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("ftp://host/x", "known are"),
        ("s4://bucket/x", "known are"),
        ("s3://", "bucket"),
        ("s3:///prefix", "bucket"),
        ("file://shared/runs", "three slashes"),
        ("file:///", "three slashes"),
        ("s3://AKIAEXAMPLE:hunter2@bucket/x", "secret"),
        ("s3://AKIAEXAMPLE@bucket/x", "secret"),
        ("s3://bucket/x?access_key=AKIA&secret_key=hunter2", "access_key"),
        ("abfs://container:hunter2@account/x", "secret"),
        ("s3://bucket/x#part", "bucket"),
        ('"s3://bucket/x?region"', "query"),
    ],
)
def test_what_is_no_address_is_refused_and_no_secret_told(
    tmp_path: Path, address: str, word: str
) -> None:
    with pytest.raises(ConfigError, check=lambda error: error.code == "E1042") as caught:
        load_config(config_of(tmp_path, address), ())
    told = " ".join((caught.value.what, *caught.value.why, *caught.value.fix))
    assert word in told
    assert "hunter2" not in told
    assert caught.value.exit_code == 2
