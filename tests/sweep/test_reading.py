"""What people write wrong in a sweep is said at once, with the nearest that is right."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.client.access import Client
from orchestrator.errors import ConfigError, ConflictError, NotFoundError
from orchestrator.sweep import asking
from orchestrator.sweep.definition import read_definition
from orchestrator.sweep.reading import config_of, load_sweep
from orchestrator.sweep.space import Kind, Tie, loguniform

TEXT = """
projects:
  - {name: cells, model: timm/mobilenetv3_small_050, data: none, epochs: 9, batch: 32}
sweep:
  name: night
  trials: 8
  space:
    batch: [16, 32, 64]
    optimizer: [SGD, AdamW]
    momentum: {uniform: [0.8, 0.98], when: {optimizer: SGD}}
    lr0: {loguniform: [1.0e-4, 1.0e-2], tie: sqrt, at: 64}
    imgsz: {int: [160, 320, 32]}
  limits: {memory: 8GiB, seconds_per_epoch: 60}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(TEXT)
    return file


def test_a_block_is_read_and_outlives_its_file(path: Path) -> None:
    definition = load_sweep(path, ["sweep.trials=9", "epochs=4"])
    assert (definition.name, definition.trials, definition.epochs) == ("night", 9, 4)
    assert definition.metrics == ("metrics/accuracy_top1",)
    assert definition.modes == ("max",)
    assert definition.limits.memory_bytes == 8 << 30
    assert definition.space["lr0"].tie is Tie.SQRT
    assert definition.space["imgsz"].kind is Kind.INTEGER
    path.unlink()
    again = read_definition(definition.text())
    assert again == definition
    project = config_of(again, {"batch": 64, "lr0": 1e-05, "optimizer": "SGD"}).projects[0]
    assert project.template.effective_batch == 64
    assert project.template.settings.lr0 == 1e-05
    assert project.template.settings.epochs == 4


def test_the_file_trains_without_its_block_too(path: Path) -> None:
    assert load_sweep(path, space={"lr0": loguniform(1e-4, 1e-2)}).space.keys() == {"lr0"}


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"space": {"lr": [0.1]}}, "E1010", "lr0"),
        ({"space": {"warmup_epoch": [1.0]}}, "E1010", "warmup_epochs"),
        ({"space": {}}, "E1060", "empty"),
        ({"space": {"lr0": {"loguniform": [0, 1]}}}, "E1011", "low > 0"),
        ({"space": {"lr0": {"loguniform": [-1, 1]}}}, "E1011", "low > 0"),
        ({"space": {"batch": [0, 16]}}, "E1011", "at least"),
        ({"space": {"batch": {"gauss": [0, 16]}}}, "E1010", "gauss"),
        ({"space": {"momentum": {"uniform": [0.1, 0.9], "when": {"lr0": 1}}}}, "E1060", "lr0"),
        ({"trial": 4}, "E1010", "trials"),
        ({"trials": 0}, "E1011", "at least 1"),
        ({"search": "bayes"}, "E1011", "tpe"),
        ({"mode": "best"}, "E1011", "max or min"),
        ({"name": "Not A Name"}, "E1013", "name"),
        ({"limits": {"memory": 8}}, "E1011", "8GiB"),
        ({"search": "grid", "space": {"lr0": {"uniform": [0.1, 0.2]}}}, "E1063", "endless"),
        ({"scheduler": "pbt", "trials": 2, "space": {"batch": [16, 32]}}, "E1063", "population"),
        ({"scheduler": "pbt", "space": {"imgsz": [160, 320]}}, "E1063", "imgsz"),
        ({"search": "random", "warm": ["before"]}, "E1063", "learns nothing"),
        ({"project": "others"}, "E1062", "cells"),
    ],
)
def test_mistakes_are_said_with_the_remedy(
    path: Path, given: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, **given)
    error = caught.value
    assert error.code == code
    assert said in " ".join([error.what, *error.why, *error.fix])


def test_checkpoints_cannot_be_switched_off_under_a_scheduler_that_needs_them(path: Path) -> None:
    text = TEXT.replace("timm/mobilenetv3_small_050", "yolo11n.yaml")
    path.write_text(text.replace("batch: 32}", "batch: 32, save: false}"))
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, scheduler="pbt", space={"batch": [16, 32]})
    assert "checkpoints are always written" in " ".join(caught.value.fix)


def test_two_sweeps_cannot_have_one_name(path: Path, tmp_path: Path) -> None:
    client = Client(tmp_path / "home")
    asking.create(client, path)
    with pytest.raises(ConflictError) as caught:
        asking.create(client, path)
    assert caught.value.code == "E5030"


def test_a_sweep_goes_on_longer_but_not_elsewhere(path: Path, tmp_path: Path) -> None:
    client = Client(tmp_path / "home")
    asking.create(client, path)
    assert asking.continued(client, "night", path, ["sweep.trials=30"]).trials == 30
    assert asking.continued(client, "night").trials == 30
    with pytest.raises(ConfigError) as caught:
        asking.continued(client, "night", path, ["sweep.space={batch: [16]}"])
    assert caught.value.code == "E1061"
    assert "batch" in caught.value.why[0]
    with pytest.raises(NotFoundError) as missing:
        asking.continued(client, "nigth")
    assert "night" in missing.value.why[0]


def test_the_config_that_comes_along_is_a_sweep() -> None:
    definition = load_sweep(Path(__file__).parents[2] / "configs" / "sweep.yaml")
    assert (definition.name, definition.trials) == ("digits", 6)
    assert set(definition.space) == {"optimizer", "lr0", "batch"}
