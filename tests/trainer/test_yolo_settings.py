"""What ultralytics is told; its keys come from the installed version, without an import of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.trainer.yolo_settings import (
    OPTIMIZERS,
    environment,
    overrides,
    yolo_option_keys,
)
from orchestrator.types import BatchPlan, Scalar, TrainSettings
from tests.contracts.trainer import attempt_of


def told(folder: Path, **fields: object) -> dict[str, object]:
    settings = TrainSettings(model="m", data="d", imgsz=64, epochs=2, **fields)  # type: ignore[arg-type]  # any field, by name
    batch = BatchPlan(effective_batch=24, world_size=2, micro_batch=5)
    task = attempt_of(settings, folder, batch=batch)
    return overrides(task, torch_device="cuda:0", data="data.yaml", model="m.pt")


def refused(folder: Path, **fields: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        told(folder, **fields)
    assert caught.value.fix
    return caught.value


def test_keys_are_known_without_importing_torch_or_ultralytics() -> None:
    code = (
        "import sys; from orchestrator.trainer.yolo_settings import yolo_option_keys as k;"
        "print(len(k()), 'torch' in sys.modules, 'ultralytics' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    count, *imported = output.stdout.split()
    assert int(count) > 50
    assert imported == ["False", "False"]


def test_the_keys_are_those_of_ultralytics_less_ours() -> None:
    keys = yolo_option_keys()
    assert {"mosaic", "close_mosaic", "cos_lr", "freeze", "box", "single_cls", "plots"} <= keys
    assert not keys & {"batch", "nbs", "device", "project", "save_dir", "resume", "lr0", "time"}


def test_the_effective_batch_is_the_batch_and_the_nominal_batch(tmp_path: Path) -> None:
    found = told(tmp_path)
    assert found["batch"] == found["nbs"] == 24
    assert found["device"] == "0"
    assert str(found["save_dir"]).startswith(str(tmp_path))
    assert found["resume"] is False
    assert found["plots"] is False


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_and_its_rate_are_always_explicit(tmp_path: Path, name: str) -> None:
    found = told(tmp_path, optimizer=name.lower())
    assert (found["optimizer"], found["lr0"]) == (name, OPTIMIZERS[name])
    assert told(tmp_path, optimizer=name, lr0=0.5)["lr0"] == 0.5


def test_auto_is_refused_because_it_ignores_the_rate(tmp_path: Path) -> None:
    error = refused(tmp_path, optimizer="auto")
    assert error.code == "E1113"
    assert "lr0" in error.why[0]


def test_an_unknown_option_is_answered_with_the_nearest(tmp_path: Path) -> None:
    options: dict[str, Scalar] = {"mosiac": 0.5}
    error = refused(tmp_path, options=options)
    assert error.code == "E1111"
    assert "mosaic" in error.fix[0]


@pytest.mark.parametrize("key", ["batch", "nbs", "device", "save_dir", "compile", "time"])
def test_keys_of_ours_are_refused_with_the_reason(tmp_path: Path, key: str) -> None:
    options: dict[str, Scalar] = {key: 1}
    assert refused(tmp_path, options=options).code in {"E1111", "E1112"}


def test_precision_is_translated(tmp_path: Path) -> None:
    found = [told(tmp_path, amp=amp)["amp"] for amp in ("auto", "fp16", "bf16", "fp32")]
    assert found == [True, True, "bf16", False]
    assert refused(tmp_path, amp="fp8").code == "E1114"


def test_the_environment_forbids_code_installs_and_the_network() -> None:
    found = environment("/run")
    assert found["ULTRALYTICS_SAFE_LOAD"] == found["YOLO_OFFLINE"] == "true"
    assert found["YOLO_AUTOINSTALL"] == "false"
    assert found["YOLO_CONFIG_DIR"] == "/run/.ultralytics"
