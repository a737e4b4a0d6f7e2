"""Stages and folds of a config: what each run gets, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.load import Config, load_config
from orchestrator.config.types import Folds
from orchestrator.config.yaml import write_yaml
from orchestrator.errors import ConfigError

BLOCK = "name: p\nmodel: fake\ntrainer: fake\ndata: none\nepochs: 9\nimgsz: 128\n"


def load(folder: Path, text: str, *words: str) -> Config:
    path = folder / "exp.yaml"
    path.write_text(text)
    return load_config(path, words, environment={"ORC_CONFIG": "none"})


def refused(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value


def test_a_stage_is_the_project_with_keys_of_its_own(tmp_path: Path) -> None:
    stages = "stages:\n- {name: small, imgsz: 64, epochs: 2, lr0: 0.1}\n- {batch: 8}\n"
    one, two = load(tmp_path, BLOCK + stages).projects
    assert [project.label for project in (one, two)] == [
        "p stage 1/2 small",
        "p stage 2/2 stage-2",
    ]
    first, second = one.template, two.template
    assert (first.settings.imgsz, first.settings.epochs, first.settings.lr0) == (64, 2, 0.1)
    assert (second.settings.imgsz, second.settings.epochs, second.settings.lr0) == (128, 9, None)
    assert (first.effective_batch, second.effective_batch) == (16, 8)
    assert one.where.endswith(":8")
    epochs = next(s for s in one.settings if s.path == "stages[0].epochs")
    assert epochs.origin.endswith(":8")


def test_words_of_the_command_line_go_before_a_stage(tmp_path: Path) -> None:
    text = BLOCK + "stages: [{name: small, imgsz: 64, epochs: 2}, {name: full}]\n"
    stages = load(tmp_path, text, "epochs=1", "p.batch=4").projects
    assert [project.template.settings.epochs for project in stages] == [1, 1]
    assert [project.template.settings.imgsz for project in stages] == [64, 128]
    assert [project.template.effective_batch for project in stages] == [4, 4]


def test_defaults_give_stages_and_folds_to_all_projects(tmp_path: Path) -> None:
    text = (
        "defaults: {folds: 3, stages: [{name: a}, {name: b, imgsz: 64}]}\n"
        "projects:\n"
        "- {name: p, model: fake, trainer: fake, data: none, folds: {seed: 5}}\n"
        "- {name: q, model: fake, trainer: fake, data: none, stages: [{imgsz: 32}]}\n"
    )
    labels = {p.label: p for p in load(tmp_path, text, "q.folds.k=4").projects}
    assert list(labels) == ["p stage 1/2 a", "p stage 2/2 b", "q stage 1/1 stage-1"]
    assert labels["q stage 1/1 stage-1"].folds == Folds(k=4)
    assert labels["p stage 2/2 b"].folds == Folds(k=3, seed=5)
    assert labels["p stage 2/2 b"].template.settings.imgsz == 64


def test_folds_are_a_number_or_a_block(tmp_path: Path) -> None:
    assert load(tmp_path, BLOCK + "folds: 5\n").projects[0].folds == Folds(k=5)
    text = BLOCK + "folds: {k: 3, by: '^(p\\d+)_', seed: 7, stratify: false}\n"
    wanted = Folds(k=3, by="^(p\\d+)_", seed=7, stratify=False)
    assert load(tmp_path, text).projects[0].folds == wanted
    assert load(tmp_path, text, "folds=8").projects[0].folds == replace(wanted, k=8)
    assert load(tmp_path, BLOCK).projects[0].folds is None


def test_a_table_of_groups_is_found_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("file,group\n")
    folds = load(tmp_path, BLOCK + "folds: {k: 3, by: groups.csv}\n").projects[0].folds
    assert folds is not None
    assert folds.by == str(tmp_path / "groups.csv")


@pytest.mark.parametrize("words", [(), ("epochs=1",), ("imgsz=32", "folds.k=7")])
def test_the_resolved_block_gives_the_same_runs_again(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    stages = "stages: [{name: small, imgsz: 64, epochs: 2}, {name: full, batch: 4}]\n"
    first = load(tmp_path, BLOCK + "folds: {k: 3, by: 'a(b)'}\n" + stages, *words)
    assert [project.label for project in first.whole] == ["p stage 1/2 small"]
    again = load(tmp_path, write_yaml({"projects": [dict(first.projects[1].resolved)]}))
    assert [p.template for p in again.projects] == [p.template for p in first.projects]
    assert [p.stage for p in again.projects] == [p.stage for p in first.projects]
    assert again.projects[0].folds == first.projects[0].folds


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("stages: 3", "stages must be a list of 1 to 100 blocks"),
        ("stages: []", "stages must be a list of 1 to 100 blocks"),
        ("stages: [{name: a}, small]", "stages[1] must be a block of keys, not 'small'"),
        ("stages: [{name: a}, {name: a, imgsz: 64}]", "the stage name a is given twice"),
        ("stages: [{name: stage-2}, {}]", "the stage name stage-2 is given twice"),
        ("stages: [{name: 'a/b'}]", "stages[0].name must be a-z"),
        ("stages: [{model: yolo11n.yaml}]", "stages[0].model cannot differ between stages"),
        ("stages: [{data: other}]", "stages[0].data cannot differ between stages"),
        ("stages: [{stages: [{}]}]", "stages[0].stages cannot differ between stages"),
        ("stages: [{epochs: 0}]", "stages[0].epochs"),
        ("stages: [{batch: 4, micro_batch: 5}]", "stages[0].micro_batch 5 is more than batch 4"),
        ("folds: 1", "folds.k"),
        ("folds: 1001", "folds.k"),
        ("folds: {by: x}", "folds.k"),
        ("folds: {k: 3, key: x}", "folds.key"),
        ("folds: {k: 3, seed: -1}", "folds.seed"),
        ("folds: {k: 3, by: '(('}", "must be a regular expression or a .csv file"),
        ("folds: many", "folds"),
    ],
)
def test_what_is_refused_names_its_place(block: str, told: str, tmp_path: Path) -> None:
    error = refused(tmp_path, f"{BLOCK}{block}\n")
    assert error.exit_code == 2
    text = " ".join((error.what, *error.why))
    assert told in text
    assert "exp.yaml:7" in text


def test_a_key_that_the_trainer_does_not_know_is_named_in_its_stage(tmp_path: Path) -> None:
    text = "model: timm/resnet10t\ndata: made:digits-classify\nstages:\n- {}\n- {mixupp: 0.2}\n"
    error = refused(tmp_path, text)
    assert "stages[1].mixupp" in error.what
    assert "mixup" in " ".join(error.fix)
    assert "exp.yaml:5" in error.what


def test_a_project_cannot_be_called_by_a_word_of_the_config(tmp_path: Path) -> None:
    for name in ("stages", "folds"):
        assert name in refused(tmp_path, BLOCK.replace("name: p", f"name: {name}")).what
