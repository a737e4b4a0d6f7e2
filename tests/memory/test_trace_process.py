"""Tracing in a process of its own: what comes back, also when it goes wrong."""

import pytest

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.memory.events import Birth
from orchestrator.memory.process import trace_all, trace_in_process
from orchestrator.plan.workload import Labels, Workload

TINY = Workload(trainer="timm", model="test_vit", imgsz=160, num_classes=10)
LABELS = Labels(most=8, mean=3.5)


def test_several_workloads_come_back_each_with_its_traces_or_its_error() -> None:
    absent = Workload(trainer="timm", model="nonesuch", imgsz=64, num_classes=10)
    detector = Workload(
        trainer="yolo",
        model="yolov8n.yaml",
        task="detect",
        imgsz=64,
        num_classes=3,
        labels=LABELS,
        is_cut=True,
    )
    found, error, boxes = trace_all([TINY, absent, detector])

    assert isinstance(found, tuple)
    first, second = found
    assert (first.batch, second.batch) == (2, 4)
    assert len(first.events) == len(second.events) > 1000
    assert first.marks == second.marks
    assert {e.part for e in first.events if isinstance(e, Birth)} >= {"weights", "activations"}
    assert isinstance(error, ConfigError)
    assert "nonesuch" in error.what
    assert isinstance(boxes, tuple)
    assert len(boxes[0].events) == len(boxes[1].events)


def test_a_process_that_takes_too_long_is_one_clear_error() -> None:
    with pytest.raises(OrchestratorError, match="died") as caught:
        trace_in_process(TINY, timeout=0.01)
    assert caught.value.code == "E2132"
    assert "longer" in caught.value.why[0]


def test_labels_are_demanded_for_a_detector() -> None:
    workload = Workload(
        trainer="yolo", model="yolov8n.yaml", task="detect", imgsz=64, num_classes=3
    )
    with pytest.raises(ConfigError, match="boxes"):
        trace_in_process(workload)
