"""Every wrong config: exit 2, the field's path, the remedy, no traceback, no side effect."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cli.app import main
from orchestrator.config.model import ProjectModel
from tests.config.malformed import HEAD, Wrong, wrong_configs

WRONG = tuple(wrong_configs())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORC_CONFIG", str(tmp_path / "none.yaml"))
    for name in ("ORC_RUNS", "ORC_ADDRESS", "ORC_EMULATE_GPUS", "ORC_HOME"):
        monkeypatch.delenv(name, raising=False)


def train(folder: Path, text: str, *words: str) -> int:
    path = folder / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    return main(["train", "wrong.yaml", *words, "--home", str(folder / "home")])


def assert_clean(code: int, told: str, folder: Path) -> None:
    assert code == 2, told
    assert told.startswith("error[E"), told
    assert "Traceback" not in told
    assert max(len(line) for line in told.splitlines()) < 2000
    assert sorted(p.name for p in folder.iterdir()) == ["wrong.yaml"]


def test_there_are_hundreds_of_wrong_configs() -> None:
    assert len(WRONG) >= 200
    assert len({wrong.text for wrong in WRONG}) == len(WRONG)


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name or str(wrong.words) for wrong in WRONG])
def test_a_wrong_config_is_refused_with_its_field_and_nothing_happens(
    wrong: Wrong, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train(tmp_path, wrong.text)
    out, told = capsys.readouterr()
    assert out == ""
    assert_clean(code, told, tmp_path)
    for word in wrong.words:
        assert word in told


def test_a_wrong_config_is_refused_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    train(tmp_path, HEAD + "    epochs: -1\n")  # imports and caches are paid once
    began = time.perf_counter()
    for wrong in WRONG[:50]:
        train(tmp_path, wrong.text)
    assert time.perf_counter() - began < 50 * 0.1


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("epoch=3", "epochs"),
        ("cell.epochs=3", "cells"),
        ("cells.epoch=3", "epochs"),
        ("resources.gpux=1", "gpus"),
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("epochs=[", "epochs"),
        ("epochs=.nan", "epochs"),
        ("lr0=fast", "lr0"),
        ("projects=[]", "NAME.key=value"),
        ("defaults.epochs=3", "NAME.key=value"),
        ("cluster.emulate=[RTX 1]", "cluster.emulate"),
        ("name=x\0y", "name"),
        ("epochs=" + "9" * 5000, "key=value"),
    ],
)
def test_a_wrong_word_on_the_command_line_is_refused(
    word: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train(tmp_path, HEAD, word)
    text = capsys.readouterr().err
    assert_clean(code, text, tmp_path)
    assert told in text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(sorted(ProjectModel.model_fields)) | st.text(max_size=12)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(block=st.dictionaries(keys, values, max_size=6))
def test_no_block_of_plain_values_ever_shows_a_traceback(
    block: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"projects": [block]}), encoding="utf-8")
    code = main(["config", "show", str(path)])
    out, told = capsys.readouterr()
    assert "Traceback" not in told + out
    if code:
        assert_clean(code, told, tmp_path)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=st.text(max_size=200))
def test_no_text_ever_shows_a_traceback(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    code = main(["config", "show", str(path)])
    out, told = capsys.readouterr()
    assert "Traceback" not in told + out
    assert_clean(code, told, tmp_path)
