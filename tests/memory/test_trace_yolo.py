"""Traces of every family and task of ultralytics' models."""

from dataclasses import replace

import pytest

from orchestrator.memory import stage
from orchestrator.memory.events import Birth, StepTrace
from orchestrator.memory.linear import LinearTrace
from orchestrator.memory.process import trace_all
from orchestrator.memory.trace import trace_pair, trace_step
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


def test_masks_are_as_large_as_the_options_say() -> None:
    small = replace(DETECT, model="yolov8n-seg.yaml", task="segment", imgsz=128)
    fine = replace(small, options=(("mask_ratio", 1),))
    apart = replace(small, options=(("overlap_mask", False),))
    usual, finer, each = (b for _, b in pairs(small, fine, apart))
    assert peak(finer, "loss") > 2 * peak(usual, "loss")
    data = [
        sum(e.num_bytes for e in trace.events if isinstance(e, Birth) and e.part == "data")
        for trace in (usual, each)
    ]
    assert data[1] - data[0] == 2 * each.batch * (4 - 1) * 32 * 32  # in two steps, a mask a box


def most_of(trace: StepTrace, part: str) -> int:
    """The most bytes of a part that are alive at a time, whenever that is."""
    living: dict[int, int] = {}
    most = 0
    for event in trace.events:
        if not isinstance(event, Birth):
            living.pop(event, None)
        elif event.part == part:
            living[event.storage] = event.num_bytes
            most = max(most, sum(living.values()))
    return most


def test_frozen_layers_keep_neither_gradients_nor_activations() -> None:
    large = replace(DETECT, imgsz=256)
    frozen = replace(large, options=(("freeze", 10),))  # the backbone of yolo11, but for two layers
    usual, fixed = (b for _, b in pairs(large, frozen))
    assert most_of(fixed, "gradients") < 0.6 * most_of(usual, "gradients")
    assert most_of(fixed, "activations") < 0.7 * most_of(usual, "activations")
    # Autocast keeps half-precision copies only of weights that train.
    assert most_of(fixed, "weights") < most_of(usual, "weights")


def test_networks_on_top_of_torchvisions_are_traced_without_fetching_weights() -> None:
    small = replace(DETECT, model="yolo11-cls-resnet18.yaml", task="classify", labels=None)
    ((_, trace),) = pairs(small)
    assert most_of(trace, "activations") > 0


def test_validation_takes_what_suppression_needs() -> None:
    load = replace(DETECT, kind=StepKind.VALIDATE, num_classes=80, imgsz=256)
    ((_, trace),) = pairs(load)
    assert peak(trace) > peak(trace, "activations") + 2 * (1 << 20)


@pytest.mark.slow
def test_masks_that_are_scored_in_chunks_are_predicted_beyond_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = replace(
        DETECT,
        model="yolo26n-seg.yaml",
        task="segment",
        imgsz=256,
        labels=Labels(most=90, mean=60.0),
        is_governed=False,
    )
    line = LinearTrace.of(*trace_pair(load))
    assert 16 < line.most[line.most > 0].min() < 32  # images of a chunk
    monkeypatch.setattr(stage, "in_one_chunk", lambda *_: None)
    for batch in (4, 32, 48):
        assert line.allocated_peak(batch) == pytest.approx(peak(trace_step(load, batch)), rel=0.03)


@pytest.mark.slow
def test_every_family_is_traced() -> None:
    names = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")
    for _, trace in pairs(*(replace(DETECT, model=f"{name}.yaml") for name in names)):
        assert most_of(trace, "activations") > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [{}, {"is_cut": True}, {"is_checkpointed": True}, {"kind": StepKind.VALIDATE}],
    ids=["whole", "cut", "checkpointed", "validation"],
)
def test_every_task_is_traced(way: dict[str, object]) -> None:
    for _, trace in pairs(*(replace(w, **way) for w in VARIANTS)):  # type: ignore[arg-type]
        assert peak(trace) > 0
