"""Stages and folds through `orc train` on a Ray of its own: with formulas, and trained for real."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.client.access import Client
from orchestrator.client.records import Run, RunRecord
from orchestrator.types import CheckpointRef, RunState
from tests.trainer.picture_folders import make_pictures
from tests.trainer.yolo_pictures import make_yolo_data

FAKE = """\
cluster: {emulate: ["RTX 2060 6GB"]}
projects:
- name: cells
  trainer: fake
  model: fake
  data: none
  folds: 2
  resources: {memory: 2GiB}
  schedule: {retry: 0}
  stages: [{name: small, epochs: 1}, {name: full, epochs: 2}]
"""
# A learning rate at which weights stay what they are: the end of a stage shows how it began.
REAL = """\
cluster: {emulate: ["RTX 2060 6GB", "RTX 4080 SUPER 16GB"]}
defaults:
  batch: 4
  epochs: 1
  imgsz: 32
  workers: 0
  folds: 2
  memory: {predict: false}
  resources: {memory: 2GiB}
  stages: [{name: small}, {name: grown, imgsz: 64, lr0: 1.0e-12}]
projects:
- {name: finder, model: yolo11n.yaml, data: boxes/data.yaml, optimizer: SGD, warmup_epochs: 0}
- {name: reader, model: timm/test_resnet.r160_in1k, data: stripes, folds: {by: '^(\\d)'}}
"""


def orc(folder: Path, *words: str) -> tuple[int, str, str]:
    variables = {"ORC_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "ORC_CONFIG": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return done.returncode, done.stdout, done.stderr


def parts(folder: Path, project: str) -> dict[tuple[int, int], Run]:
    runs = Client(folder / "home").runs(project)
    return {(run.part.fold, run.part.stage): run for run in runs if run.part}


@pytest.mark.ray
def test_stages_wait_for_one_another_and_a_failure_is_resumed_with_what_it_took_along(
    tmp_path: Path,
) -> None:
    (tmp_path / "exp.yaml").write_text(FAKE)
    code, out, err = orc(tmp_path, "train", "exp.yaml", "fail_at_epoch=1", "fault_attempts=1")
    assert code == 1, err
    assert "DEPENDENCY_FAILED" in out
    assert "waits: WAITING_FOR_RUNS" in err
    assert "ended: it comes after" in err
    failed = parts(tmp_path, "cells")
    assert {run.state for run in failed.values()} == {RunState.FAILED}
    state = json.loads((Path(failed[1, 2].folder) / "run.json").read_text())
    assert (state["state"], state["cause"]) == ("FAILED", "DEPENDENCY_FAILED")
    code, _, err = orc(tmp_path, "resume", failed[1, 2].id)
    assert code == 2
    assert f"orc resume {failed[1, 1].id}" in err
    code, _, err = orc(tmp_path, "resume", failed[1, 1].id)
    assert code == 7, err  # the second stage has a first attempt too, which fails
    assert parts(tmp_path, "cells")[1, 1].state is RunState.SUCCEEDED
    code, _, err = orc(tmp_path, "resume", failed[1, 2].id, failed[2, 1].id)
    assert parts(tmp_path, "cells")[1, 2].state is RunState.SUCCEEDED
    code, _, err = orc(tmp_path, "resume", failed[2, 2].id)
    assert code == 0, err
    with (tmp_path / "runs" / "cells" / "folds.csv").open() as file:
        rows = [(row["fold"], row["stage"], row["state"]) for row in csv.DictReader(file)]
    assert rows == [(f, s, "SUCCEEDED") for f in "12" for s in "12"]


@pytest.mark.slow
def test_both_trainers_hand_weights_from_stage_to_stage_in_every_fold(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
    pytest.importorskip("sklearn", reason="the extra [folds] is not installed")
    make_yolo_data(tmp_path / "boxes", train=8, val=4)
    make_pictures(tmp_path / "stripes", classes=2, each=8)
    (tmp_path / "exp.yaml").write_text(REAL)
    code, out, err = orc(tmp_path, "train", "exp.yaml")
    assert code == 0, err
    assert out.count("mean of 2") == 4
    client = Client(tmp_path / "home")
    for project, num_train in (("finder", 6), ("reader", 8)):
        found = {key: client.show(run.id) for key, run in parts(tmp_path, project).items()}
        assert sorted(found) == [(1, 1), (1, 2), (2, 1), (2, 2)]
        for fold in (1, 2):
            check_handed_over(found[fold, 1], found[fold, 2])
            assert found[fold, 2].progress[0].num_images == num_train
        assert not is_close(weights(found[1, 1]), weights(found[2, 1])), "folds train alike"
        check_table(tmp_path / "runs" / project / "folds.csv", found)


def check_handed_over(one: RunRecord, two: RunRecord) -> None:
    assert two.spec.after == (one.spec.run_id,)
    assert (one.spec.settings.imgsz, two.spec.settings.imgsz) == (32, 64)
    assert one.spec.settings.data == two.spec.settings.data
    assert one.run.ended_at is not None
    assert two.run.started_at is not None
    assert two.run.started_at >= one.run.ended_at
    assert is_close(weights(one), weights(two)), "the stage began with other weights"


def check_table(table: Path, found: Mapping[tuple[int, int], RunRecord]) -> None:
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["fold"]), int(row["stage"])) for row in rows] == sorted(found)
    for row in rows:
        run = found[int(row["fold"]), int(row["stage"])].run
        assert (row["run"], row["state"], row["best_epoch"]) == (run.id, "SUCCEEDED", "1")
        assert {name: float(row[name]) for name in run.best} == dict(run.best)


def best(record: RunRecord) -> CheckpointRef:
    return next(ref for ref in record.checkpoints if ref.is_best)


def weights(record: RunRecord) -> Mapping[str, object]:
    """What the best epoch was judged by, without the statistics that move with every picture."""
    from orchestrator.trainer.handover import best_yolo
    from orchestrator.trainer.results import read_weights

    is_yolo = record.spec.trainer == "yolo"
    state = best_yolo(best(record)) if is_yolo else read_weights(Path(best(record).path))
    return {k: v for k, v in state.items() if "running_" not in k and "num_batches" not in k}


def is_close(one: Mapping[str, object], two: Mapping[str, object]) -> bool:
    import torch

    assert one.keys() == two.keys()
    pairs = [(torch.as_tensor(one[name]), torch.as_tensor(two[name])) for name in one]
    return all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in pairs)
