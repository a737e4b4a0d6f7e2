"""The tables of sweeps: one of a name, everything once, and whoever came before is fenced off."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConflictError, NotFoundError, StoreError
from orchestrator.store.sql import SqlStore
from orchestrator.store.sweeps import SweepEntry, SweepRow


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with SqlStore(str(tmp_path / "orchestrator.db")) as opened:
        row = SweepRow(name="night", at=1.0, epoch=0, state="RUNNING", substance="x", body="{}")
        opened.sweeps.create(row)
        yield opened


def entry(key: str, body: str = "{}") -> SweepEntry:
    return SweepEntry(at=1.0, kind="suggested", trial=1, key=key, body=body)


def test_a_name_is_taken_once(store: SqlStore) -> None:
    found = store.sweeps.find("night")
    assert found is not None
    with pytest.raises(ConflictError) as caught:
        store.sweeps.create(found)
    assert caught.value.code == "E5030"
    assert [row.name for row in store.sweeps.every()] == ["night"]


def test_a_key_is_recorded_once_and_the_order_is_kept(store: SqlStore) -> None:
    epoch = store.sweeps.conduct("night")
    store.sweeps.record("night", epoch, [entry("a"), entry("b")])
    store.sweeps.record("night", epoch, [entry("a", body="[]"), entry("c")])
    found = list(store.sweeps.journal("night"))
    assert [each.key for _, each in found] == ["a", "b", "c"]
    assert found[0][1].body == "{}"
    assert [each.key for _, each in store.sweeps.journal("night", since=found[0][0])] == ["b", "c"]


def test_who_conducted_before_can_write_no_more(store: SqlStore) -> None:
    old = store.sweeps.conduct("night")
    new = store.sweeps.conduct("night")
    with pytest.raises(StoreError) as caught:
        store.sweeps.record("night", old, [entry("a")])
    assert caught.value.code == "E5032"
    with pytest.raises(StoreError):
        store.sweeps.set_state("night", "FINISHED", old)
    store.sweeps.record("night", new, [entry("a")])
    store.sweeps.set_state("night", "STOPPED")  # a person may
    found = store.sweeps.find("night")
    assert found is not None
    assert found.state == "STOPPED"


def test_what_is_not_there_is_said(store: SqlStore) -> None:
    assert store.sweeps.find("day") is None
    with pytest.raises(NotFoundError) as caught:
        store.sweeps.conduct("day")
    assert caught.value.code == "E5031"
