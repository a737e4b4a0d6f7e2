"""A step that is cut has the gradients, the loss and the loss items of the whole one."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrator.errors import ConfigError
from orchestrator.trainer.yolo_step import CutStep

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

TASKS = {
    "yolov8n.yaml": "detect",
    "yolo11n.yaml": "detect",
    "yolo26n.yaml": "detect",
    "yolov8n-seg.yaml": "segment",
    "yolo26n-seg.yaml": "segment",
    "yolo11n-pose.yaml": "pose",
    "yolo26n-pose.yaml": "pose",
    "yolo11n-obb.yaml": "obb",
    "yolo26n-obb.yaml": "obb",
    "yolo11n-cls.yaml": "classify",
}
COUNTS = (3, 5, 0, 2, 7, 1, 4, 2)  # objects by image; one has none
NUM_CLASSES = 3
SIZE = 128


@pytest.fixture(autouse=True, scope="module")
def _ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from orchestrator.trainer.yolo_apart import apart

    with apart(str(tmp_path_factory.mktemp("run"))):
        yield


def batch_of(task: str) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(1)
    images = torch.rand(len(COUNTS), 3, SIZE, SIZE, generator=chance)
    if task == "classify":
        labels = torch.randint(0, NUM_CLASSES, (len(COUNTS),), generator=chance)
        return {"img": images, "cls": labels}
    owner = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS)).float()
    count = len(owner)
    boxes = torch.rand(count, 4, generator=chance) * 0.4 + torch.tensor([0.3, 0.3, 0.08, 0.08])
    kinds = torch.randint(0, NUM_CLASSES, (count, 1), generator=chance).float()
    batch = {"img": images, "batch_idx": owner, "cls": kinds, "bboxes": boxes}
    if task == "obb":
        batch["bboxes"] = torch.cat([boxes, torch.rand(count, 1, generator=chance)], 1)
    if task == "pose":
        points = torch.rand(count, 17, 3, generator=chance)
        points[..., 2] = torch.randint(0, 3, (count, 17), generator=chance)
        batch["keypoints"] = points
    if task == "segment":
        batch |= masks_of(owner, boxes, kinds)
    return batch


def masks_of(owner: torch.Tensor, boxes: torch.Tensor, kinds: torch.Tensor) -> dict[str, Any]:
    """Filled boxes at a quarter of the size: object 1, 2, ... of each image; and classes."""
    side = SIZE // 4
    objects, classes = torch.zeros(2, len(COUNTS), side, side)
    seen = [0] * len(COUNTS)
    for row, box, kind in zip(owner.int().tolist(), boxes, kinds, strict=True):
        seen[row] += 1
        x, y, w, h = (box * side).tolist()
        area = (
            slice(int(y - h / 2), int(y + h / 2) + 1),
            slice(int(x - w / 2), int(x + w / 2) + 1),
        )
        objects[row][area] = seen[row]
        classes[row][area] = kind.item()
    return {"masks": objects, "sem_masks": classes}


def model_of(name: str, *, weights: Path | None = None) -> Any:
    from ultralytics.cfg import get_cfg
    from ultralytics.nn import tasks

    kinds = {
        "detect": tasks.DetectionModel,
        "segment": tasks.SegmentationModel,
        "pose": tasks.PoseModel,
        "obb": tasks.OBBModel,
        "classify": tasks.ClassificationModel,
    }
    torch.manual_seed(0)
    if weights is None:
        model = kinds[TASKS[name]](name, nc=NUM_CLASSES, verbose=False)
    else:
        model = tasks.load_checkpoint(weights)[0]
    model.requires_grad_(True)
    model.args = get_cfg(overrides={"task": TASKS[name], "epochs": 10})
    model.train()
    for module in model.modules():  # batch statistics are what no cut can keep
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


Step = tuple[dict[str, torch.Tensor], float, dict[str, float]]


def step(
    model: Any,
    batch: dict[str, Any],
    micro_batch: int,
    *,
    scale: float = 0.0,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Step:
    """Gradients, loss and loss items; with a loss scale, as half precision has, if one is given."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale > 0)
    trainer = SimpleNamespace(
        model=model,
        args=model.args,
        batch_size=len(COUNTS),
        world_size=0,
        accumulate=1,
        scaler=scaler,
    )
    whole = model.forward
    model.criterion = None
    model.zero_grad(set_to_none=True)
    model.forward = CutStep(trainer, micro_batch, prepare)
    try:
        terms, items = model(dict(batch))
    finally:
        model.forward = whole
    scaler.scale(terms.sum()).backward()
    factor = 1 / scale if scale else 1.0
    gradients = {n: p.grad * factor for n, p in model.named_parameters() if p.grad is not None}
    return gradients, terms.sum().item(), {k: v.item() for k, v in items.items()}


def assert_equal(cut: Step, whole: Step) -> None:
    assert cut[0].keys() == whole[0].keys()
    norm = torch.stack([g.norm() for g in whole[0].values()]).norm()
    for name, gradient in whole[0].items():
        error = (cut[0][name] - gradient).norm()
        assert error <= 1e-3 * max(gradient.norm(), 1e-4 * norm), name
    assert cut[1] == pytest.approx(whole[1], rel=1e-3)
    assert cut[2] == pytest.approx(whole[2], rel=1e-3)


def check(name: str) -> None:
    model, batch = model_of(name), batch_of(TASKS[name])
    whole = step(model, batch, len(COUNTS))
    for micro_batch in (4, 3, 2, 1):  # 2, 3 (ragged), 4 and 8 pieces
        assert_equal(step(model, batch, micro_batch), whole)


def test_gradients_of_the_pieces_are_those_of_the_whole() -> None:
    check("yolo11n.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TASKS if name != "yolo11n.yaml"])
def test_gradients_are_exact_for_every_task(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n.yaml", "yolov8n-seg.yaml"])
def test_a_loss_scale_changes_nothing(name: str) -> None:
    model, batch = model_of(name), batch_of(TASKS[name])
    whole = step(model, batch, len(COUNTS))
    assert_equal(step(model, batch, 3, scale=1024.0), whole)


@pytest.mark.slow
def test_learning_the_divisors_leaves_running_statistics_to_the_step() -> None:
    model, batch = model_of("yolov8n-seg.yaml"), batch_of("segment")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for module in norms:
        module.train()
    before = norms[0].state_dict()["num_batches_tracked"].item()
    step(model, batch, 4)
    assert norms[0].state_dict()["num_batches_tracked"].item() == before + 2
    assert all(module.track_running_stats for module in norms)


def test_what_cannot_be_cut_is_refused_and_what_fits_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("yolo11n.yaml")
    make = type(model).init_criterion

    def strange(self: Any) -> Any:
        criterion = make(self)
        criterion.loss_names = ("strange_loss", "cls_loss", "dfl_loss")
        return criterion

    monkeypatch.setattr(type(model), "init_criterion", strange)
    step(model, batch_of("detect"), len(COUNTS))
    with pytest.raises(ConfigError, match="cannot be cut") as caught:
        step(model, batch_of("detect"), 3)
    assert "strange_loss" in caught.value.why[0]


def test_with_multi_scale_all_pieces_of_a_step_are_scaled_alike() -> None:
    def scaled(piece: dict[str, Any]) -> dict[str, Any]:
        side = random.choice(range(64, 257, 32))
        sides.append(side)
        piece["img"] = torch.nn.functional.interpolate(piece["img"], size=side)
        return piece

    sides: list[int] = []
    model, batch = model_of("yolo11n.yaml"), batch_of("detect")
    model.args.multi_scale = 0.5
    random.seed(7)
    whole = step(model, batch, len(COUNTS), prepare=scaled)
    after = random.random()
    random.seed(7)
    cut = step(model, batch, 3, prepare=scaled)
    assert len(sides) == 4
    assert len(set(sides)) == 1
    assert random.random() == after
    assert_equal(cut, whole)
