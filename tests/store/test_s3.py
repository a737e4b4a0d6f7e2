"""A run in S3, as pyarrow's own client speaks to it: kept, fetched, pruned, refused."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from orchestrator.address import joined
from orchestrator.errors import ConfigError, StorageError
from orchestrator.store.reaching import demand_usable
from orchestrator.store.remote import RemoteFolder
from orchestrator.store.stored import StoredCheckpoints
from orchestrator.types import AttemptId, CheckpointRef, RunId
from tests.store.small_s3 import Answer, SmallS3, small_s3

ATTEMPT = AttemptId(run_id=RunId("run"), number=1)
SIZE = 12 << 20  # in parts, as all that is larger than one


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    with small_s3() as held:
        yield held


def content(epoch: int) -> bytes:
    return random.Random(epoch).randbytes(SIZE)


def accept(file: BinaryIO) -> None:
    assert len(file.read()) == SIZE


def checkpoints(s3: SmallS3, folder: Path) -> StoredCheckpoints:
    address = joined(s3.address(), "cells", "run")
    return StoredCheckpoints(RemoteFolder(address, pauses=(), sleep=lambda _: None), str(folder))


def save(into: StoredCheckpoints, epoch: int, *, is_best: bool = False) -> CheckpointRef:
    def write(file: BinaryIO) -> None:
        file.write(content(epoch))

    return into.write(ATTEMPT, epoch, write, is_best=is_best, check=accept)


def keys(s3: SmallS3) -> list[str]:
    """Checkpoints; where pyarrow removes one it marks the folder by an empty object."""
    found = (key.removeprefix("runs/cells/run/checkpoints/") for key in s3.buckets["bucket"])
    return sorted(key for key in found if not key.endswith("/"))


def test_checkpoints_are_kept_fetched_and_pruned(s3: SmallS3, tmp_path: Path) -> None:
    one = checkpoints(s3, tmp_path / "one")
    refs = [save(one, epoch, is_best=epoch == 1) for epoch in (1, 2, 3, 4)]
    assert keys(s3) == ["1/epoch-0001.best.ckpt", "1/epoch-0003.ckpt", "1/epoch-0004.ckpt"]
    two = checkpoints(s3, tmp_path / "two")
    assert [two.verify(ref) for ref in refs] == [True, False, True, True]
    assert (tmp_path / "two/checkpoints/1/epoch-0004.ckpt").read_bytes() == content(4)


def test_what_is_cut_there_is_not_gone_on_from(s3: SmallS3, tmp_path: Path) -> None:
    one = checkpoints(s3, tmp_path / "one")
    older, newer = save(one, 1), save(one, 2)
    key = "runs/cells/run/checkpoints/1/epoch-0002.ckpt"
    s3.buckets["bucket"][key] = s3.buckets["bucket"][key][: SIZE // 2]
    two = checkpoints(s3, tmp_path / "two")
    assert [two.verify(ref) for ref in (newer, older)] == [False, True]


def test_an_upload_that_is_refused_midway_names_nothing(s3: SmallS3, tmp_path: Path) -> None:
    one = checkpoints(s3, tmp_path / "one")
    ref = save(one, 1)

    def refuses(method: str, key: str) -> Answer | None:
        has_begun = method == "PUT" and "epoch-0002" in key
        return s3.error(403, "AccessDenied") if has_begun else None

    s3.refuses = refuses
    with pytest.raises(StorageError, check=lambda error: error.code == "E5052"):
        save(one, 2)
    assert checkpoints(s3, tmp_path / "two").verify(ref)


def test_a_bucket_that_can_be_used_is_left_as_it_was(s3: SmallS3) -> None:
    demand_usable(s3.address())
    assert [key for key in s3.buckets["bucket"] if not key.endswith("/")] == []


def test_a_bucket_that_is_not_there_is_refused(s3: SmallS3) -> None:
    with pytest.raises(ConfigError, check=lambda error: error.code == "E1044"):
        demand_usable(s3.address("nowhere/runs"))


def test_a_bucket_that_cannot_be_written_to_is_refused(s3: SmallS3) -> None:
    def refuses(method: str, _key: str) -> Answer | None:
        return s3.error(403, "AccessDenied") if method in ("PUT", "POST") else None

    s3.refuses = refuses
    with pytest.raises(ConfigError, check=lambda error: error.code == "E1045"):
        demand_usable(s3.address())
