"""A training that begins with a kept model is the training that builds its own."""

import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.device.cpu import CpuDevice
from orchestrator.trainer import yolo_begin
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of, values
from tests.trainer.test_yolo import WHOLE, fit, settings_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    folder = tmp_path_factory.mktemp("given")
    data = make_yolo_data(folder / "set", train=8, val=4)
    fit(settings_of(data, epochs=1), folder / "first")
    return settings_of(data, epochs=1, model=str(folder / "first" / "weights" / "best.pt"))


def trained(
    settings: TrainSettings, folder: Path, warm: str = "sweep"
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What a training reports, and the weights that it leaves."""
    task = attempt_of(settings, folder, batch=WHOLE)
    link = RecordingLink(folder / "checkpoints")
    YoloTrainer().fit(replace(task, spec=replace(task.spec, warm=warm)), CpuDevice(), link)
    model = torch.load(folder / "weights" / "best.pt", weights_only=False)["model"]  # just written
    return values(link.reported), model.state_dict()


def demand_same(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_copy_trains_as_what_is_built_and_leaves_what_is_kept_alone(
    settings: TrainSettings, tmp_path: Path
) -> None:
    yolo_begin._KEPT.clear()
    alone = trained(settings, tmp_path / "alone", warm="")
    assert not yolo_begin._KEPT, "nobody follows in its process"
    first = trained(settings, tmp_path / "first")
    (kept,) = yolo_begin._KEPT
    begun = deepcopy(kept.model.state_dict())
    second = trained(settings, tmp_path / "second")
    third = trained(settings, tmp_path / "third")
    assert [kept] == yolo_begin._KEPT
    demand_same(begun, kept.model.state_dict())
    for metrics, weights in (first, second, third):
        assert metrics == alone[0]
        demand_same(weights, alone[1])


def test_another_file_seed_or_set_of_classes_is_built_anew(
    settings: TrainSettings, tmp_path: Path
) -> None:
    trained(settings, tmp_path / "a")
    keys = [yolo_begin._KEPT[0].key]
    trained(replace(settings, seed=5), tmp_path / "b")
    keys.append(yolo_begin._KEPT[0].key)
    data = Path(settings.data)
    other = data.with_name("other.yaml")
    other.write_text(data.read_text().replace("dark", "dim"))
    trained(replace(settings, data=str(other)), tmp_path / "c")
    keys.append(yolo_begin._KEPT[0].key)
    os.utime(settings.model, ns=(1, 1))
    trained(settings, tmp_path / "d")
    keys.append(yolo_begin._KEPT[0].key)
    assert len(set(keys)) == len(keys)


def test_a_large_file_and_an_architecture_are_not_kept(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(replace(settings, model="yolo11n.yaml"), tmp_path / "a")
    assert not yolo_begin._KEPT
    monkeypatch.setattr(yolo_begin, "_MOST_BYTES", 1 << 20)
    trained(settings, tmp_path / "b")
    assert not yolo_begin._KEPT
