"""What PostgreSQL adds to the contract: a lock of a connection, and asking from many at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orchestrator.errors import StoreError
from orchestrator.messages import RunSubmitted
from orchestrator.store.sql import SqlStore
from orchestrator.types import RunId
from tests.contracts.store import spec
from tests.store.postgres import new_schema

pytestmark = pytest.mark.skipif(
    "ORC_TEST_POSTGRES" not in os.environ, reason="ORC_TEST_POSTGRES names no server"
)


@pytest.fixture
def url() -> Iterator[str]:
    with new_schema() as url:
        yield url


def test_a_second_driver_is_refused_until_the_first_has_left(url: str) -> None:
    with SqlStore(url) as first, SqlStore(url) as second:
        with first.drive("the first"):
            with pytest.raises(StoreError, match="already has a driver") as caught, second.drive():
                pass
            assert "the first" in caught.value.why[0]
        with second.drive():
            assert second.append(RunSubmitted(at=1.0, spec=spec()))


def test_stores_in_two_schemas_have_a_driver_each(url: str) -> None:
    with new_schema() as other, SqlStore(url) as a, SqlStore(other) as b, a.drive(), b.drive():
        assert a.append(RunSubmitted(at=1.0, spec=spec()))
        assert list(b.replay()) == []


def test_a_driver_that_was_killed_leaves_the_store_free(url: str) -> None:
    code = """
import os, signal, sys
from orchestrator.store.sql import SqlStore
with SqlStore(sys.argv[1]).drive("doomed"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, url], check=False)
    assert done.returncode < 0
    with SqlStore(url) as store, store.drive():
        assert store.append(RunSubmitted(at=1.0, spec=spec()))


def test_one_key_asked_by_many_threads_is_one_row(url: str) -> None:
    wishes = [
        RunSubmitted(at=float(n), spec=replace(spec(), run_id=RunId(f"run-{n}"))) for n in range(64)
    ]
    with SqlStore(url) as store:
        with ThreadPoolExecutor(12) as pool:
            answers = set(pool.map(lambda wish: store.ask(wish, "same"), wishes))
        assert len(answers) == len(store.waiting()) == 1


def test_a_store_is_opened_for_the_first_time_by_many_at_once(url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: SqlStore(url), range(6)))
    assert all(store.inbox_is_empty() for store in stores)
    for store in stores:
        store.close()


def test_a_server_that_is_not_there_is_explained() -> None:
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        SqlStore("postgresql://nobody:secret@127.0.0.1:1/none")
    assert caught.value.code == "E5015"
    assert "secret" not in str(caught.value)
