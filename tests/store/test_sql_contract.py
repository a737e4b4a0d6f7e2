"""The Store contract, kept by SQLite and, where a server is named, by PostgreSQL."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.store.sql import SqlStore
from tests.contracts.store import StoreContract
from tests.store.postgres import new_schema


class _Opened:
    """Opens one store again and again, as a driver that ends and a driver that starts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stores = ExitStack()
        self._drive = ExitStack()

    def open(self) -> SqlStore:
        self._drive.close()
        store = self._stores.enter_context(SqlStore(self.url))
        self._drive.enter_context(store.drive("contract"))
        return store

    def close(self) -> None:
        self._drive.close()
        self._stores.close()


class _SqlContract(StoreContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        raise NotImplementedError

    @pytest.fixture
    def opened(self, url: str) -> Iterator[_Opened]:
        opened = _Opened(url)
        yield opened
        opened.close()

    @pytest.fixture
    def store(self, opened: _Opened) -> SqlStore:
        self._opened = opened
        return opened.open()

    def reopened(self, store: SqlStore) -> SqlStore:
        return self._opened.open()


class TestSqlite(_SqlContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/{uuid4().hex}.db"


@pytest.mark.skipif(
    "ORC_TEST_POSTGRES" not in os.environ, reason="ORC_TEST_POSTGRES names no server"
)
class TestPostgres(_SqlContract):
    @pytest.fixture
    def url(self) -> Iterator[str]:
        with new_schema() as url:
            yield url
