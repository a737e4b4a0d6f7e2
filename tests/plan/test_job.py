"""What of a run's settings decides the memory of its steps."""

import pytest

from orchestrator.plan.choose import Ladder, choose
from orchestrator.plan.job import Facts, job_of, validation_size
from orchestrator.plan.ladder import Rung
from orchestrator.plan.workload import Labels
from orchestrator.types import RunId, RunSpec, Scalar, TrainSettings
from tests.plan.hand_made import GIB, MIB, Lines, scales, target

LABELS = Labels(most=20, mean=5)


def spec(model: str = "yolo11n-seg.yaml", **options: Scalar) -> RunSpec:
    settings = TrainSettings(model=model, data="d", imgsz=640, epochs=1, options=options)
    return RunSpec(
        run_id=RunId("r"),
        project="p",
        trainer="timm" if model.startswith("timm/") else "yolo",
        settings=settings,
        effective_batch=16,
        folder="/runs/p/r",
    )


FACTS = Facts(num_classes=3, task="segment", train_labels=LABELS, validation_labels=LABELS)


@pytest.mark.parametrize(
    ("model", "options", "wanted"),
    [
        ("yolo11n-seg.yaml", {}, ()),
        ("yolo11n-seg.yaml", {"mask_ratio": 4, "overlap_mask": True, "degrees": 5.0}, ()),
        (
            "yolo11n-seg.yaml",
            {"overlap_mask": False, "mask_ratio": 2},
            (("mask_ratio", 2), ("overlap_mask", False)),
        ),
        ("yolo11n-seg.yaml", {"freeze": 10}, (("freeze", 10),)),
        ("yolo11n-seg.yaml", {"freeze": None, "single_cls": False}, ()),
        ("timm/resnet18", {"mixup": 0.2, "mask_ratio": 2}, (("mixup", 0.2),)),
        ("timm/resnet18", {"drop_path": 0, "dropout": 0.1}, (("dropout", 0.1),)),
    ],
)
def test_options_that_change_a_step_make_it_another_workload(
    model: str, options: dict[str, Scalar], wanted: tuple[tuple[str, Scalar], ...]
) -> None:
    job = job_of(spec(model, **options), FACTS, target())
    assert job.train.options == job.validate.options == wanted


def test_sizes_that_change_are_planned_at_the_largest() -> None:
    job = job_of(spec(multi_scale=0.5), FACTS, target())
    assert job.train.imgsz == 960
    assert job.validate.imgsz == 672


@pytest.mark.parametrize(("size", "wanted"), [(640, 672), (320, 352), (650, 672), (64, 96)])
def test_detectors_validate_on_pictures_that_are_padded(size: int, wanted: int) -> None:
    assert validation_size(size, "detect") == wanted
    assert validation_size(size, "classify") == size


def test_a_smaller_picture_is_smaller_in_validation_as_well() -> None:
    job = job_of(spec(), FACTS, target())
    lines = Lines(fixed=GIB, slope=600 * MIB)
    found = choose(job, target(1.4), GIB + GIB // 2, scales(lines))
    assert found.job.validate.imgsz == 672
    ladder = Ladder(rungs=(Rung.CUT, Rung.IMGSZ), least_imgsz=320)
    found = choose(job, target(1.4), GIB + GIB // 2, scales(lines), ladder)
    assert found.job.train.imgsz < 640
    assert found.job.validate.imgsz == validation_size(found.job.train.imgsz, "segment")


@pytest.mark.parametrize(("model", "wanted"), [("yolo11n-seg.yaml", 1), ("timm/resnet18", 3)])
def test_a_single_class_is_what_ultralytics_then_trains(model: str, wanted: int) -> None:
    job = job_of(spec(model, single_cls=True), FACTS, target())
    assert job.train.num_classes == job.validate.num_classes == wanted
