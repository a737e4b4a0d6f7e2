"""A disk that is full loses nothing that was acknowledged and is explained; room lets it go on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def on_a_small_disk(way: str, disk: Path) -> dict[str, Any]:
    """Run the child on a disk of 1 MB that exists for it alone."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1" || exit 77; exec "$2" -m "$3" "$4" "$1"'
    arguments = [str(disk), sys.executable, "tests.store.full_disk_child", way]
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", mount, "sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no disk of our own can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_full_disk_stops_the_store_with_everything_acknowledged_in_it(tmp_path: Path) -> None:
    found = on_a_small_disk("store", tmp_path)
    assert found["code"] == "E5004"
    assert found["acknowledged"] > 10
    assert found["kept"] == found["acknowledged"]
    assert found["goes_on"]
    assert found["journal"] == found["kept"] + 1


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(tmp_path: Path) -> None:
    found = on_a_small_disk("checkpoints", tmp_path)
    assert found["code"] == "E5004"
    assert found["names"] == ["epoch-0001.ckpt"]
    assert found["is_safe"]
    assert found["again"]


def test_a_full_disk_does_not_stop_the_files_for_people_from_going_on_later(tmp_path: Path) -> None:
    found = on_a_small_disk("folder", tmp_path)
    assert found == {"last": "ProgressReported", "run": "RUNNING"}
