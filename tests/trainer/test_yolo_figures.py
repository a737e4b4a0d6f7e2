"""The figures that the YOLO trainer promises, measured by its benches on real pictures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.trainer.yolo import YoloTrainer
from orchestrator.types import BatchPlan, Card, Outcome, TrainSettings
from tests.contracts.trainer import RecordingLink, attempt_of
from tests.trainer.yolo_pictures import make_yolo_data

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ORC_TEST_DATA", ROOT.parent / "shared" / "data"))

pytestmark = pytest.mark.slow


def bench(name: str, *words: str) -> str:
    if not (DATA / "det_bccd_tiny").is_dir():
        pytest.skip(f"no data in {DATA}; set ORC_TEST_DATA")
    command = [sys.executable, "-m", f"jobs.{name}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ORC_TEST_DATA": str(DATA)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_numbers_are_those_of_ultralytics_itself() -> None:
    bench("bench_parity_yolo", "--epochs=2")


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_run_that_was_killed_goes_on_with_the_same_numbers(killed_after: int) -> None:
    words = ("--epochs=4", "--close-mosaic=2", f"--killed-after={killed_after}")
    bench("bench_resume_yolo", *words)


def test_a_card_that_is_too_small_for_the_batch_trains_it_in_pieces(tmp_path: Path) -> None:
    data = make_yolo_data(tmp_path / "set", train=16, size=128)
    settings = TrainSettings(model="yolo11n.yaml", data=str(data), imgsz=128, epochs=1, workers=0)
    card = Card(index=0, name="RTX 2060", memory_bytes=6 << 30, is_emulated=True)
    peaks = {}
    for micro_batch in (16, 4):
        device = EmulatedDevice(card, 6 << 30)
        folder = tmp_path / str(micro_batch)
        batch = BatchPlan(effective_batch=16, world_size=1, micro_batch=micro_batch)
        task = attempt_of(settings, folder, batch=batch)
        with device.session():
            YoloTrainer().fit(task, device, link := RecordingLink(folder / "checkpoints"))
        peaks[micro_batch] = link.reported[0].peak_bytes
    assert peaks[4] < 0.8 * peaks[16], peaks
    between = (peaks[4] + peaks[16]) // 2
    for micro_batch in (16, 4):
        device = EmulatedDevice(card, between)
        folder = tmp_path / f"held-{micro_batch}"
        batch = BatchPlan(effective_batch=16, world_size=1, micro_batch=micro_batch)
        task = attempt_of(settings, folder, batch=batch)
        link = RecordingLink(folder / "checkpoints")
        with device.session():
            assert YoloTrainer().fit(task, device, link)[0] is Outcome.FINISHED
        assert bool(link.recuts) == (micro_batch == 16)
        assert link.reported[0].micro_batch < 16
        assert link.reported[0].peak_bytes <= between
