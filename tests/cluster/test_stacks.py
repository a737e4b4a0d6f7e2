"""A process writes where its threads stand when it is told to, even with its GIL held."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster.stacks import dump, dumped_on_signal, stacks_file

CHILD = """
import ctypes, sys
from pathlib import Path
from orchestrator.cluster.stacks import dumped_on_signal

def stand_still():
    print("ready", flush=True)
    libc = ctypes.PyDLL(None)  # unlike CDLL, it keeps the GIL
    while libc.sleep(100):
        pass

with dumped_on_signal(Path(sys.argv[1]) / "stacks.txt"):
    stand_still()
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_the_stacks_of_a_process_that_holds_its_gil_are_written(
    child: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert dump([(child.pid, str(stacks_file(tmp_path)))]) == [True]
    assert "in stand_still" in stacks_file(tmp_path).read_text()
    assert child.poll() is None, "it lives on"


def test_nothing_is_sent_to_a_process_that_has_not_opened_the_file(
    child: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert dump([(child.pid, str(tmp_path / "another"))]) == [False]
    assert child.poll() is None


def test_a_process_that_is_gone_has_no_stacks(child: subprocess.Popen[str], tmp_path: Path) -> None:
    child.kill()
    child.wait()
    assert dump([(child.pid, str(stacks_file(tmp_path)))]) == [False]


def test_a_process_that_is_stopped_keeps_no_other_from_telling(
    child: subprocess.Popen[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    command = [sys.executable, "-c", CHILD, str(other)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "ready\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        asked = [(stopped.pid, str(stacks_file(other))), (child.pid, str(stacks_file(tmp_path)))]
        told = dump(asked)
        stopped.kill()
    assert told == [False, True]


def test_an_attempt_that_never_hung_leaves_no_file(tmp_path: Path) -> None:
    with dumped_on_signal(stacks_file(tmp_path)):
        assert stacks_file(tmp_path).exists()
    assert not stacks_file(tmp_path).exists()
