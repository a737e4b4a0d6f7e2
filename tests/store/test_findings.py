"""What runs have tried, in a store: rows of before, of versions to come, torn ones."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.messages import RunSubmitted
from orchestrator.store.schema import HEAD
from orchestrator.store.sql import SqlStore
from orchestrator.types import Finding, RunState
from tests.contracts.store import attempt, finding, spec, status, telling
from tests.store.revisions import make_store_of


def learn(path: Path, *found: Finding, number: int = 1) -> tuple[Finding, ...]:
    """Record an epoch that tells of these, and read all that is known."""
    with SqlStore(str(path)) as store, store.drive("test"):
        if number == 1:
            store.append(RunSubmitted(at=1.0, spec=spec()))
            store.publish([status(attempt=1, state=RunState.RUNNING)])
        assert store.append(telling(attempt(1), *found, number=number, at=float(number)))
        return store.findings()


def test_a_store_of_before_gets_the_table(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    make_store_of("0006", path)
    with SqlStore(str(path)) as store:
        assert store.findings() == ()
    assert learn(path, finding()) == (finding(),)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT version_num FROM meta").fetchone() == (HEAD,)


@pytest.mark.parametrize(
    "body",
    [
        "",
        '{"trainer": "fake", "card"',
        "[1]",
        '{"trainer": "fake", "hue": 3}',
        "[" * 100_000,
        None,  # one of another setting: the row is not what its key says
    ],
)
def test_a_row_that_cannot_be_read_is_as_good_as_none_and_is_replaced(
    tmp_path: Path, body: str | None
) -> None:
    path = tmp_path / "a.db"
    both = (finding(), finding(1, name="cache"))
    assert set(learn(path, *both)) == set(both)
    other = "SELECT body FROM findings WHERE body LIKE '%cache%'"
    with closing(sqlite3.connect(path)) as raw, raw:
        (text,) = raw.execute(other).fetchone() if body is None else (body,)
        raw.execute("UPDATE findings SET body = ? WHERE body LIKE '%workers%'", (text,))
    with SqlStore(str(path)) as store:
        assert store.findings("fake") == both[1:]
    assert set(learn(path, finding(6), number=2)) == {finding(6), both[1]}


def test_paths_of_any_length_are_kept(tmp_path: Path) -> None:
    long = replace(finding(), model="/data/" + "m" * 4000 + ".pt", kind="k" * 9000)
    assert learn(tmp_path / "a.db", long) == (long,)


def test_what_is_forgotten_is_tried_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    other = replace(finding(), model="another")
    learn(path, finding(), other)
    with SqlStore(str(path)) as store:
        assert store.forget_findings("fake") == 1
        assert store.forget_findings("fake") == 0
        assert store.findings() == (other,)
