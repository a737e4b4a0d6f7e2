"""What a detector gives up to fit: fewer bytes on the card, and the same numbers."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.trainer.yolo_step import CutStep
from orchestrator.types import BatchPlan, Card, Outcome, Scalar, TrainSettings
from tests.contracts.trainer import Killed, RecordingLink, attempt_of, values
from tests.trainer.test_yolo_step import COUNTS, TASKS, batch_of, model_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")


@pytest.fixture(autouse=True, scope="module")
def _ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from orchestrator.trainer.yolo_apart import apart

    threads = torch.get_num_threads()
    with apart(str(tmp_path_factory.mktemp("run"))):
        yield
    torch.set_num_threads(threads)  # ultralytics sets its own number for a CPU


def stepped(name: str, micro_batch: int, *, is_checkpointed: bool) -> dict[str, Tensor]:
    """Gradients and running statistics of a step in training, of a model that drops out, too."""
    model = model_of(name)
    model.train()
    model.model[2].register_forward_hook(
        lambda module, _, found: torch.nn.functional.dropout(found, 0.2, module.training)
    )
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    trainer: Any = SimpleNamespace(model=model, args=model.args, scaler=scaler)
    trainer.batch_size, trainer.world_size, trainer.accumulate = len(COUNTS), 0, 1
    model.forward = CutStep(trainer, micro_batch, dict)
    if is_checkpointed:
        model.forward.checkpoint()
    torch.manual_seed(3)
    model(batch_of(TASKS[name]))
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers()) | {"chance": torch.get_rng_state()}


@pytest.mark.parametrize("micro_batch", [len(COUNTS), 3])
@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n-seg.yaml"])
def test_gradients_are_those_of_layers_that_are_kept(name: str, micro_batch: int) -> None:
    plain = stepped(name, micro_batch, is_checkpointed=False)
    again = stepped(name, micro_batch, is_checkpointed=True)
    assert plain.keys() == again.keys()
    for key, wanted in plain.items():
        torch.testing.assert_close(again[key], wanted, rtol=1e-5, atol=1e-6, msg=key)


def test_a_light_detector_that_was_killed_ends_like_a_plain_one(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=8, val=2)
    batch = BatchPlan(effective_batch=4, world_size=1, micro_batch=3)
    light: dict[str, Scalar] = {"grad_checkpointing": True, "optimizer_state": "host"}

    def fit(
        name: str, options: dict[str, Scalar], **link: Any
    ) -> tuple[Outcome, RecordingLink, int]:
        settings = TrainSettings(
            model="yolo11n.yaml",
            data=str(data),
            imgsz=64,
            epochs=2,
            workers=0,
            options={"close_mosaic": 0} | options,
        )
        told, outcome = RecordingLink(tmp_path / name / "checkpoints", **link), Outcome.YIELDED
        six = 6 << 30
        device = EmulatedDevice(Card(index=0, name="card", memory_bytes=six, is_emulated=True), six)
        try:
            with device.session():
                task = attempt_of(settings, tmp_path / name, batch=batch)
                outcome, _ = YoloTrainer().fit(task, device, told)
        except Killed:
            pass
        return outcome, told, told.reported[0].peak_bytes

    _, plain, much = fit("plain", {})
    _, first, little = fit("light", light, kill_after=1)
    outcome, second, _ = fit("light", light, resume_from=first.saved[-1])
    assert outcome is Outcome.FINISHED
    near = [pytest.approx(metrics, rel=1e-3, abs=1e-3) for metrics in values(plain.reported)]
    assert values(first.reported + second.reported) == near
    assert little < much
    text = (tmp_path / "light/args.yaml").read_text()
    assert "# orchestrator: grad_checkpointing: True" in text
    assert "# orchestrator: optimizer_state: host" in text
