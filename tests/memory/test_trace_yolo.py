"""Traces of every family and task of ultralytics' models."""

from dataclasses import replace

import pytest

from orchestrator.memory.events import StepTrace
from orchestrator.memory.process import trace_all
from orchestrator.plan.workload import Labels, StepKind, Workload
from tests.memory.test_trace import peak

DETECT = Workload(
    trainer="yolo",
    model="yolo11n.yaml",
    task="detect",
    imgsz=64,
    num_classes=3,
    labels=Labels(most=8, mean=4.0),
)
TASKS = {"-seg": "segment", "-pose": "pose", "-obb": "obb", "-cls": "classify"}
VARIANTS = [
    replace(DETECT, model=f"{family}{suffix}.yaml", task=task)
    for family in ("yolov8n", "yolo11n", "yolo26n")
    for suffix, task in TASKS.items()
]


def pairs(*workloads: Workload) -> list[tuple[StepTrace, StepTrace]]:
    found = trace_all(workloads)
    assert [e for e in found if not isinstance(e, tuple)] == []
    return [pair for pair in found if isinstance(pair, tuple)]


def test_a_detectors_memory_follows_its_labels_and_its_size() -> None:
    few = replace(DETECT, imgsz=256)
    many = replace(few, labels=Labels(most=800, mean=100.0))
    usual, crowded, large = (b for _, b in pairs(few, many, replace(few, imgsz=512)))
    assert peak(crowded) > peak(usual)
    assert peak(crowded, "loss") > 10 * peak(usual, "loss")
    assert peak(large, "activations") == pytest.approx(4 * peak(usual, "activations"), rel=0.05)


@pytest.mark.slow
def test_every_family_is_traced() -> None:
    names = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
    for _, trace in pairs(*(replace(DETECT, model=f"{name}.yaml") for name in names)):
        assert peak(trace, "activations") > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [{}, {"is_cut": True}, {"is_checkpointed": True}, {"kind": StepKind.VALIDATE}],
    ids=["whole", "cut", "checkpointed", "validation"],
)
def test_every_task_is_traced(way: dict[str, object]) -> None:
    for _, trace in pairs(*(replace(w, **way) for w in VARIANTS)):  # type: ignore[arg-type]
        assert peak(trace) > 0
