"""The data of each fold: lists and links that the trainers read, without a picture copied."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.client.folds import check_folds, fold_data
from orchestrator.config.types import Folds
from orchestrator.device.cpu import CpuDevice
from orchestrator.errors import DataError
from orchestrator.memory.facts import facts_of
from orchestrator.ports import Trainer
from orchestrator.trainer.picture_lists import read_lists
from orchestrator.trainer.pictures import find_pictures
from orchestrator.trainer.yolo_data import read_class_folders, read_data_yaml
from orchestrator.trainer.yolo_labels import check_data, pictures_in
from orchestrator.types import BatchPlan, Outcome, RunSpec
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.strategies import make_spec
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("sklearn", reason="the extra [folds] is not installed")


def spec_of(trainer: str, model: str, data: Path) -> RunSpec:
    spec = make_spec()
    return replace(
        spec, trainer=trainer, settings=replace(spec.settings, model=model, data=str(data))
    )


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    make_pictures(tmp_path / "set" / "train", classes=3, each=6)
    make_pictures(tmp_path / "set" / "val", classes=3, each=3, seed=1)
    return tmp_path / "set"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_lists_of_class_folders_are_disjoint_and_complete(classes: Path, tmp_path: Path) -> None:
    spec = spec_of("timm", "timm/resnet10t", classes)
    before = files_below(classes)
    found = fold_data(spec, Folds(k=3), tmp_path / "folds")
    assert files_below(classes) == before
    assert len(found.data) == 3
    every = {path for each in find_pictures(classes, 0) for path in each.paths}
    seen: list[str] = []
    for data in found.data:
        train, val = find_pictures(Path(data), 0)
        assert set(train.paths) | set(val.paths) == every
        assert not set(train.paths) & set(val.paths)
        assert train.classes == val.classes == ("class0", "class1", "class2")
        assert [val.labels.count(label) for label in range(3)] == [3, 3, 3]
        assert [Path(path).parent.name for path in val.paths] == [f"class{n}" for n in val.labels]
        assert list(train.labels) == sorted(train.labels)
        seen += val.paths
    assert sorted(seen) == sorted(every), "a picture is validated on not exactly once"
    assert (
        facts_of(replace(spec, settings=replace(spec.settings, data=found.data[0]))).num_images
        == 18
    )


def test_lists_of_a_detection_set_are_read_by_the_trainer_and_have_no_download(
    tmp_path: Path,
) -> None:
    data = make_yolo_data(tmp_path / "set", train=6, val=3)
    spec = spec_of("yolo", "yolo11n.yaml", data)
    before = files_below(data.parent)
    found = fold_data(spec, Folds(k=3), tmp_path / "folds")
    assert files_below(data.parent) == before
    whole = read_data_yaml(data)
    seen: list[Path] = []
    for path in found.data:
        fold = read_data_yaml(Path(path))
        assert fold.names == whole.names
        assert check_data(fold, "detect") == 9
        parts = {p: list(pictures_in(fold, fold.splits[p][0])) for p in ("train", "val")}
        assert (len(parts["train"]), len(parts["val"])) == (6, 3)
        assert not set(parts["train"]) & set(parts["val"])
        seen += parts["val"]
    assert sorted(seen) == sorted(
        p for s in whole.splits.values() for p in pictures_in(whole, s[0])
    )


def test_class_folders_of_links_for_a_yolo_classifier(classes: Path, tmp_path: Path) -> None:
    spec = spec_of("yolo", "yolo11n-cls.yaml", classes)
    found = fold_data(spec, Folds(k=3), tmp_path / "folds")
    seen: list[Path] = []
    for path in found.data:
        fold = read_class_folders(Path(path))
        assert fold.names == ("class0", "class1", "class2")
        assert check_data(fold, "classify") == 27
        links = [p for p in (Path(path) / "val").rglob("*") if not p.is_dir()]
        assert all(link.is_symlink() for link in links)
        seen += [link.resolve() for link in links]
    assert sorted(seen) == sorted(p.resolve() for p in classes.rglob("*.png"))


def test_both_trainers_train_on_a_fold_and_leave_the_set_alone(
    classes: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
    from orchestrator.trainer.timm import TimmTrainer
    from orchestrator.trainer.yolo import YoloTrainer

    before = files_below(classes)
    batch = BatchPlan(effective_batch=6, world_size=1, micro_batch=6)
    trainers: tuple[tuple[Trainer, str, str], ...] = (
        (TimmTrainer(), "timm", "timm/test_resnet.r160_in1k"),
        (YoloTrainer(), "yolo", "yolo11n-cls.yaml"),
    )
    for trainer, name, model in trainers:
        spec = spec_of(name, model, classes)
        data = fold_data(spec, Folds(k=3), tmp_path / "folds").data[1]
        settings = replace(spec.settings, data=data, epochs=1, workers=0, optimizer="SGD")
        link = RecordingLink(tmp_path / name / "checkpoints")
        with CpuDevice().session():
            task = attempt_of(settings, tmp_path / name, batch=batch)
            outcome, metrics = trainer.fit(task, CpuDevice(), link)
        assert outcome is Outcome.FINISHED
        assert link.reported[0].num_images == 18
        assert "metrics/accuracy_top1" in metrics
    assert files_below(classes) == before


def test_groups_by_the_name_are_never_split(classes: Path, tmp_path: Path) -> None:
    spec = spec_of("timm", "timm/resnet10t", classes)
    found = fold_data(spec, Folds(k=3, by=r"(\d)\.png$", stratify=False), tmp_path / "folds")
    groups = [{Path(p).stem for p in find_pictures(Path(d), 0)[1].paths} for d in found.data]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 6
    facts = json.loads((Path(found.data[0]).parent / "split.json").read_text())
    assert (facts["groups"], facts["pictures"], facts["k"]) == (6, 27, 3)
    assert sum(fold["val"] for fold in facts["folds"]) == 27


def test_what_decides_the_split_decides_its_folder_and_nothing_is_written_twice(
    classes: Path, tmp_path: Path
) -> None:
    spec = spec_of("timm", "timm/resnet10t", classes)

    def made(folds: Folds) -> str:
        return fold_data(spec, folds, tmp_path / "folds").identity

    first = made(Folds(k=3))
    stamp = (tmp_path / "folds" / first).stat().st_mtime_ns
    assert made(Folds(k=3)) == first
    assert (tmp_path / "folds" / first).stat().st_mtime_ns == stamp
    (tmp_path / "folds" / first / "fold-2.pictures.json").unlink()
    assert made(Folds(k=3)) == first
    assert (tmp_path / "folds" / first / "fold-2.pictures.json").exists()
    others = {made(Folds(k=4)), made(Folds(k=3, seed=1)), made(Folds(k=3, by=r"(\d)\.png$"))}
    assert len(others | {first}) == 4
    shutil.copy(classes / "train/class0/0.png", classes / "train/class0/new.png")
    assert made(Folds(k=3)) not in others | {first}


def test_the_split_does_not_depend_on_where_the_set_lies(classes: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(classes, tmp_path / "elsewhere" / "set")
    rows = []
    for data in (classes, moved):
        found = fold_data(spec_of("timm", "timm/resnet10t", data), Folds(k=3), tmp_path / "folds")
        bodies = [json.loads(Path(path).read_text()) for path in found.data]
        rows.append([(body["train"], body["val"]) for body in bodies])
    assert rows[0] == rows[1]


def test_a_class_that_a_fold_cannot_train_is_named(tmp_path: Path) -> None:
    make_pictures(tmp_path / "set", classes=2, each=6)
    lonely = tmp_path / "set" / "lonely" / "x_only.png"
    lonely.parent.mkdir()
    shutil.copy(tmp_path / "set/class0/0.png", lonely)
    shutil.copy(lonely, lonely.with_name("x_two.png"))
    spec = spec_of("timm", "timm/resnet10t", tmp_path / "set")
    folds = Folds(k=3, by=r"^(x|\d)", seed=2)
    remarks = check_folds(spec, folds)
    assert len(remarks) == 1
    assert remarks[0].endswith("trains without any picture of lonely")
    assert not (tmp_path / "folds").exists()
    assert fold_data(spec, folds, tmp_path / "folds").remarks == remarks


def test_classes_that_cannot_be_spread_are_told(classes: Path) -> None:
    remarks = check_folds(spec_of("timm", "timm/resnet10t", classes), Folds(k=10))
    assert remarks[0] == "classes are not spread evenly: none has 10 pictures, one for each fold"
    assert not check_folds(spec_of("timm", "timm/resnet10t", classes), Folds(k=10, stratify=False))


def test_more_folds_than_pictures_are_refused_and_leave_nothing(
    classes: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="there are 27 pictures"):
        fold_data(spec_of("timm", "timm/resnet10t", classes), Folds(k=28), tmp_path / "folds")
    assert not (tmp_path / "folds").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"root": "relative"}, "its root is not absolute"),
        ({"classes": ["one"]}, "fewer than 2 classes"),
        ({"val": []}, "it names no val pictures"),
        ({"val": [["class0/../../x.png", 0]]}, "leads out of the data set"),
        ({"val": [["class0/0.txt", 0]]}, "is not a picture"),
        ({"val": [["class0/none.png", 0]]}, "is not there"),
        ({"val": [["class0/0.png", 9]]}, "is not a path with its class"),
        ({"val": [["class0/1.png", 0]]}, "is in train and in val"),
        ({"schema_version": 2}, "of another version"),
        ({"more": 1}, "its keys are not"),
    ],
)
def test_a_list_that_was_changed_by_hand_is_refused(
    change: dict[str, object], told: str, tmp_path: Path
) -> None:
    make_pictures(tmp_path / "set", classes=2, each=3)
    body = {
        "schema_version": 1,
        "root": str(tmp_path / "set"),
        "classes": ["class0", "class1"],
        "train": [["class0/1.png", 0], ["class1/1.png", 1]],
        "val": [["class0/0.png", 0]],
    }
    file = tmp_path / "fold-1.pictures.json"
    file.write_text(json.dumps(body))
    assert len(read_lists(file)[0]) == 2
    file.write_text(json.dumps(body | change))
    with pytest.raises(DataError) as refused:
        find_pictures(file, 0)
    assert refused.value.code == "E3108"
    assert told in refused.value.why[0]
