"""The store in memory keeps the Store contract."""

import pytest

from orchestrator.messages import TimePassed
from orchestrator.store.memory import MemoryStore
from tests.contracts.store import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_equal_journals_have_equal_digests_and_others_do_not() -> None:
    one, same, other = MemoryStore(), MemoryStore(), MemoryStore()
    for store, at in ((one, 1.0), (same, 1.0), (other, 1.5)):
        store.append(TimePassed(at=at))
    assert one.digest() == same.digest() != other.digest()
