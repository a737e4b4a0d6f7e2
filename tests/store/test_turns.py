"""Who waits for the database is next, however fast the writer before it comes back."""

import fcntl
import threading
from pathlib import Path

from sqlalchemy import text

from orchestrator.messages import CancelRequested
from orchestrator.store.sql import SqlStore
from orchestrator.store.turns import Turns
from orchestrator.types import RunId


def is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def until_held(path: Path) -> None:
    pause = threading.Event()
    while not is_held(path):
        pause.wait(0.001)


def test_a_writer_that_comes_back_at_once_stands_behind_the_one_who_waits(tmp_path: Path) -> None:
    path = tmp_path / "orchestrator.db"
    with SqlStore(str(path)) as driver, SqlStore(str(path)) as asker:
        wish = CancelRequested(at=1.0, run_id=RunId("r"))
        asking = threading.Thread(target=asker.ask, args=(wish,))
        with driver._database.transaction(write=True):
            asking.start()
            until_held(tmp_path / "orchestrator.db.turn")
        with driver._database.transaction(write=True) as connection:
            num = connection.scalar(text("SELECT count(*) FROM inbox"))
        asking.join()
        assert num == 1, "the asker came between the two transactions"


def test_a_process_that_stopped_with_the_turn_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "turn"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with Turns(path).waiting():
            assert is_held(path), "it goes on without it"


def test_without_the_file_writers_go_on_and_sqlite_decides(tmp_path: Path) -> None:
    with Turns(tmp_path / "missing" / "turn").waiting():
        assert not (tmp_path / "missing").exists()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    with Turns(tmp_path / "turn").waiting():
        assert is_held(tmp_path / "turn")
    assert (tmp_path / "turn").stat().st_mode & 0o777 == 0o600
    assert not is_held(tmp_path / "turn")
