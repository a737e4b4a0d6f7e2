"""The guard ends what belongs to a driver when the driver is gone, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import guard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard reads /proc")

WAITING = "import sys; print(flush=True); sys.stdin.read()"


class Family:
    """Processes that wait for their end."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, tag: str = "", file: Path | None = None) -> subprocess.Popen[bytes]:
        with (file or Path(os.devnull)).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", WAITING],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={guard.TAG_NAME: tag},
            )
        assert process.stdout is not None
        process.stdout.readline()  # it is up
        self.started.append(process)
        return process


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def test_who_inherited_the_tag_or_has_a_file_of_the_folder_open_belongs(
    family: Family, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    tagged = family.start(tag="mine")
    logging = family.start(file=folder / "log")
    driver = family.start(tag="mine")
    family.start(tag="other", file=tmp_path / "log")
    found = guard.belonging("mine", str(folder), driver.pid)
    assert sorted(found) == sorted([tagged.pid, logging.pid])


def test_when_the_driver_is_gone_its_processes_and_its_folder_go_too(
    family: Family, tmp_path: Path
) -> None:
    folder = tmp_path / "ray"
    folder.mkdir()
    mine, other = family.start(tag="mine"), family.start(tag="other")
    ended = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, "mine", str(folder)],
        stdin=subprocess.DEVNULL,  # closed: the driver is gone
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0
    assert mine.wait(timeout=10) == -9
    assert other.poll() is None
    assert not folder.exists()
