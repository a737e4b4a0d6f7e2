"""SIGKILL anywhere: what was acknowledged is there once, and the next driver goes on."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from orchestrator.store.migrations import FOLDER
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunState
from tests.store.crash_child import assert_nothing_lost, drive_runs, name

NUM_RUNS = 12
ACKNOWLEDGED_PER_RUN = 8

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.store.crash_child", "orchestrator.store.migrations"])


def _drive(path: str, pipe: Connection) -> None:
    drive_runs(path, NUM_RUNS, lambda text: pipe.send_bytes(text.encode()))


def _open(path: str) -> None:
    SqlStore(path).close()


def _killed_after(path: str, num_lines: int) -> set[str]:
    """What a driver acknowledged that was killed when it had said `num_lines` things."""
    ours, theirs = processes.Pipe(duplex=False)
    child = processes.Process(target=_drive, args=(path, theirs))
    child.start()
    theirs.close()
    lines: set[str] = set()
    try:
        while True:
            lines.add(ours.recv_bytes().decode())
            if len(lines) == num_lines:
                child.kill()  # what it still said before it died counts as well
    except EOFError:
        pass
    ours.close()
    child.join()
    child.close()
    return lines


def _survives(path: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    for _ in range(kills):
        acknowledged |= _killed_after(path, chance.randint(1, 2 * ACKNOWLEDGED_PER_RUN))
        assert_nothing_lost(path, acknowledged)
    acknowledged |= _killed_after(path, -1)
    assert_nothing_lost(path, acknowledged)
    with SqlStore(path) as store:
        assert [(row.run_id, row.state) for row in store.statuses()] == [
            (name(number), RunState.SUCCEEDED) for number in range(NUM_RUNS)
        ]


def test_a_driver_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    _survives(str(tmp_path / "o.db"), kills=8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_many_drivers_killed_at_random_moments(tmp_path: Path, seed: int) -> None:
    _survives(str(tmp_path / "o.db"), kills=12, seed=100 + seed)


def test_processes_that_open_a_new_store_at_once_agree(tmp_path: Path) -> None:
    path = str(tmp_path / "home" / "o.db")
    children = [processes.Process(target=_open, args=(path,)) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    with SqlStore(path) as store:
        assert store.inbox_is_empty()
    assert not [file.name for file in Path(path).parent.iterdir() if file.name.startswith(".o.db")]


def _killed_at(path: str, call: str, when: int) -> tuple[set[str], bool]:
    """What a driver acknowledged that was killed at its n-th system call, and whether it was."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    kill = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
    driver = [sys.executable, "-m", "tests.store.crash_child", path, "1"]
    done = subprocess.run(
        [strace, "-f", "-qq", "-o", os.devnull, *kill, *driver],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if "not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    killed = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert killed or done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()), killed


def _survives_kill_at(path: str, call: str, when: int) -> bool:
    acknowledged, killed = _killed_at(path, call, when)
    drive_runs(path, 1, acknowledged.add)
    assert_nothing_lost(path, acknowledged)
    return killed


@pytest.mark.parametrize(("call", "when"), [("fdatasync", 4), ("pwrite64", 25)])
def test_a_driver_killed_at_a_durable_system_call_goes_on(
    tmp_path: Path, call: str, when: int
) -> None:
    assert _survives_kill_at(str(tmp_path / "o.db"), call, when)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fdatasync", "fsync", "pwrite64", "ftruncate", "link", "unlink"])
def test_a_driver_killed_at_every_durable_system_call_goes_on(tmp_path: Path, call: str) -> None:
    when = 1
    while _survives_kill_at(str(tmp_path / f"{when}.db"), call, when):
        when += 1
    assert when > 1 or call == "ftruncate"


NEXT_VERSION = """
import os, signal
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{newest}"

def upgrade():
    op.add_column("runs", sa.Column("colour", sa.Text))
    op.create_table("colours", sa.Column("name", sa.Text, primary_key=True))
    op.execute("UPDATE lease SET epoch = epoch + 1000")
    if os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
"""

MIGRATE = """
import sys
from pathlib import Path
from orchestrator.store.database import Database
from orchestrator.store.migrations import upgrade
database = Database(sys.argv[1])
with database.transaction(write=True) as connection:
    upgrade(connection, folder=Path(sys.argv[2]))
database.close()
"""


def test_a_migration_that_is_killed_has_not_happened(tmp_path: Path) -> None:
    path = str(tmp_path / "o.db")
    drive_runs(path, 1, lambda text: None)
    folder = tmp_path / "migrations"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    newest = max(path.name for path in (folder / "versions").glob("0*.py"))[:4]
    (folder / "versions" / "9999_colours.py").write_text(NEXT_VERSION.format(newest=newest))

    def migrate(**environment: str) -> int:
        command = [sys.executable, "-c", MIGRATE, path, str(folder)]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode

    def tables() -> str:
        with SqlStore(path) as store, store._database.engine.connect() as connection:
            dump = connection.exec_driver_sql("SELECT sql FROM sqlite_master ORDER BY name").all()
            return repr([dump, connection.exec_driver_sql("SELECT epoch FROM lease").all()])

    before = tables()
    assert migrate(DIE="1") == -signal.SIGKILL
    assert tables() == before
    with SqlStore(path) as store:
        assert len(store.statuses()) == 1
    assert migrate() == 0  # the same migration works when it is let live
