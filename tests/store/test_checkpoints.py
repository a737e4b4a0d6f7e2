"""A checkpoint exists when it is verified; what the run needs is never removed."""

import os
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import StoreError
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.types import AttemptId, CheckpointRef, RunId


def attempt(number: int) -> AttemptId:
    return AttemptId(run_id=RunId("run"), number=number)


def content(number: int, epoch: int) -> bytes:
    return random.Random(f"{number}/{epoch}").randbytes(3000)


def accept(file: BinaryIO) -> None:
    assert len(file.read()) == 3000


def save(
    checkpoints: FileCheckpoints,
    number: int,
    epoch: int,
    *,
    is_best: bool = False,
    write: Callable[[BinaryIO], object] | None = None,
    check: Callable[[BinaryIO], None] = accept,
    step: int = 0,
) -> CheckpointRef:
    def put(file: BinaryIO) -> None:
        if write is None:
            file.write(content(number, epoch + step))
        else:
            write(file)

    return checkpoints.write(attempt(number), epoch, put, is_best=is_best, check=check, step=step)


def names(folder: Path) -> list[str]:
    found = (folder / "checkpoints").rglob("*.*")
    return sorted(str(path.relative_to(folder / "checkpoints")) for path in found)


def is_cached(path: Path) -> bool:
    """Whether the system has the file in memory."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(file)


def can_forget(folder: Path) -> bool:
    """Whether files here can leave the system's cache, and it tells: a tmpfs is one."""
    path = folder / "probe"
    path.write_bytes(b"x")
    if not hasattr(os, "RWF_NOWAIT") or not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        return not is_cached(path)
    except OSError:  # a file system that does not tell
        return False


def refusal(code: str) -> "pytest.RaisesExc[StoreError]":
    return pytest.raises(StoreError, check=lambda error: error.code == code)


def test_what_is_written_is_there_private_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    checkpoints = FileCheckpoints(str(folder))
    ref = save(checkpoints, 1, 3, is_best=True)
    path = Path(ref.path)
    assert path.read_bytes() == content(1, 3)
    assert path.is_relative_to(folder / "checkpoints" / "1")
    assert (ref.epoch, ref.num_bytes, ref.is_best) == (3, 3000, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert checkpoints.verify(ref)
    assert FileCheckpoints(str(folder)).verify(ref)


def test_only_the_newest_stays_in_the_systems_cache(tmp_path: Path) -> None:
    if not can_forget(tmp_path):
        pytest.skip("the file system keeps its files in memory, or does not tell")
    checkpoints = FileCheckpoints(str(tmp_path))
    refs = [save(checkpoints, 1, epoch, is_best=epoch == 1) for epoch in (1, 2, 3)]
    assert [is_cached(Path(ref.path)) for ref in refs] == [False, False, True]
    assert all(checkpoints.verify(ref) for ref in refs)


def test_the_last_two_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    refs = [save(checkpoints, 1, n, is_best=n in (1, 2)) for n in range(1, 6)]
    assert [ref.epoch for ref in refs if checkpoints.verify(ref)] == [2, 4, 5]


def test_they_stay_over_attempts(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    refs = [save(checkpoints, 1, n, is_best=n == 2) for n in range(1, 5)]
    refs.append(save(checkpoints, 3, 5))
    assert [ref.epoch for ref in refs if checkpoints.verify(ref)] == [2, 4, 5]
    refs.append(save(checkpoints, 3, 6, is_best=True))
    assert [ref.epoch for ref in refs if checkpoints.verify(ref)] == [2, 5, 6]
    refs.append(save(checkpoints, 3, 7))
    assert [ref.epoch for ref in refs if checkpoints.verify(ref)] == [6, 7]


def test_epochs_that_an_older_attempt_wrote_in_vain_do_not_push_out_the_resume_point(
    tmp_path: Path,
) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    recorded = save(checkpoints, 1, 4)
    save(checkpoints, 1, 5)  # its report never arrived: the next attempt resumes from epoch 4
    resumed = save(checkpoints, 2, 5)
    assert checkpoints.verify(recorded)
    assert checkpoints.verify(resumed)
    assert len(names(tmp_path)) == 2


def test_an_attempt_that_was_believed_dead_removes_nothing_of_the_newer_one(tmp_path: Path) -> None:
    old, new = FileCheckpoints(str(tmp_path)), FileCheckpoints(str(tmp_path))
    save(old, 1, 1)
    kept = [save(new, 2, 2), save(new, 2, 3)]
    for epoch in range(2, 9):
        save(old, 1, epoch, is_best=True)
    assert all(new.verify(ref) for ref in kept)
    kept = [kept[-1], save(new, 2, 4)]
    assert all(new.verify(ref) for ref in kept)


@given(
    st.lists(
        st.tuples(st.sampled_from(["recorded", "unrecorded", "restart"]), st.booleans()), max_size=9
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_was_recorded_last_and_best_is_there_whatever_is_lost(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool]]
) -> None:
    """An attempt may die after it wrote a checkpoint and before its report arrives."""
    checkpoints = FileCheckpoints(str(tmp_path_factory.mktemp("run")))
    number = 1
    recorded: list[CheckpointRef] = []
    for fate, is_best in steps:
        if fate == "restart":
            number += 1
        epoch = recorded[-1].epoch + 1 if recorded else 1
        ref = save(checkpoints, number, epoch, is_best=is_best)
        if fate == "unrecorded":
            number += 1
        else:
            recorded.append(ref)
        best = [ref for ref in recorded if ref.is_best]
        assert all(checkpoints.verify(ref) for ref in recorded[-1:] + best[-1:])


def test_an_epoch_saved_twice_the_same_is_one_checkpoint(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    ref = save(checkpoints, 1, 1)
    assert save(checkpoints, 1, 1) == ref
    with refusal("E5018"):
        save(checkpoints, 1, 1, write=lambda file: file.write(bytes(3000)))
    assert checkpoints.verify(ref)
    assert len(names(tmp_path)) == 1


def test_what_cannot_be_loaded_back_is_not_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    first = save(checkpoints, 1, 1)
    with refusal("E5012") as caught:
        save(checkpoints, 1, 2, write=lambda file: file.write(b"short"))
    assert "AssertionError" in caught.value.why[0]
    assert checkpoints.verify(first)
    assert names(tmp_path) == ["1/epoch-0001.ckpt"]


def test_an_error_of_the_serialiser_passes_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))

    def fail(file: BinaryIO) -> None:
        file.write(bytes(100))
        raise MemoryError("no memory to serialise")

    with pytest.raises(MemoryError):
        save(checkpoints, 1, 1, write=fail)
    assert names(tmp_path) == []


def test_what_was_left_unfinished_is_removed(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    save(checkpoints, 1, 1)
    (tmp_path / "checkpoints" / "1" / "epoch-0002.ckpt.tmp-4711").write_bytes(bytes(10))
    save(checkpoints, 2, 2)
    assert names(tmp_path) == ["1/epoch-0001.ckpt", "2/epoch-0002.ckpt"]


def test_the_latest_of_what_is_kept_of_an_epoch_is_found_until_the_epoch_is_whole(
    tmp_path: Path,
) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    assert checkpoints.unfinished(attempt(1), 0) is None
    save(checkpoints, 1, 1, is_best=True)
    save(checkpoints, 1, 1, step=100)
    kept = save(checkpoints, 1, 1, step=200)
    assert Path(kept.path).name == f"unfinished-0001-000200-{kept.sha256}.ckpt"
    assert names(tmp_path) == ["1/epoch-0001.best.ckpt", f"1/{Path(kept.path).name}"]
    assert checkpoints.unfinished(attempt(2), 1) == kept
    assert checkpoints.unfinished(attempt(2), 0) is checkpoints.unfinished(attempt(2), 2) is None
    assert not checkpoints.verify(kept), "it is none that a journal may name"
    further = save(checkpoints, 2, 1, step=300)
    assert checkpoints.unfinished(attempt(3), 1) == further
    save(checkpoints, 2, 2)
    assert names(tmp_path) == ["1/epoch-0001.best.ckpt", "2/epoch-0002.ckpt"]


def test_what_is_kept_of_an_epoch_is_as_it_was_written_or_not_found(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    kept = save(checkpoints, 1, 3, step=7)
    path = Path(kept.path)
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert checkpoints.unfinished(attempt(2), 3) is None
    path.write_bytes(whole)
    assert checkpoints.unfinished(attempt(2), 3) == kept
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(whole)
    assert checkpoints.unfinished(attempt(2), 3) is None


def test_the_place_of_an_attempt_that_cannot_be_opened_holds_nothing(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    kept = save(checkpoints, 1, 1, step=10)
    for name in ("0", "2"):  # before it and behind it
        (tmp_path / "checkpoints" / name).write_text("a file in the place of a folder")
    assert checkpoints.unfinished(attempt(3), 1) == kept
    save(checkpoints, 3, 2)
    assert checkpoints.unfinished(attempt(4), 1) is None
    assert not Path(kept.path).exists()


def test_an_attempt_that_was_believed_dead_removes_nothing_that_the_newer_one_keeps(
    tmp_path: Path,
) -> None:
    old, new = FileCheckpoints(str(tmp_path)), FileCheckpoints(str(tmp_path))
    kept = save(new, 2, 1, step=10)
    save(old, 1, 1, step=5)
    save(old, 1, 2)
    assert new.unfinished(attempt(3), 1) == kept


def test_a_damaged_checkpoint_never_verifies(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path))
    ref = save(checkpoints, 1, 1)
    whole = Path(ref.path).read_bytes()
    chance = random.Random(10)
    for _ in range(500):
        damaged = bytearray(whole)
        if chance.random() < 0.5:
            del damaged[chance.randrange(len(whole)) :]
        else:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        Path(ref.path).write_bytes(damaged)
        assert not checkpoints.verify(ref)
    Path(ref.path).write_bytes(whole)
    assert checkpoints.verify(ref)


def test_a_reference_that_leads_elsewhere_never_verifies(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path / "run"))
    ref = save(checkpoints, 1, 1)
    other = FileCheckpoints(str(tmp_path / "other"))
    assert save(other, 1, 1).sha256 == ref.sha256
    below = tmp_path / "run" / "checkpoints"
    for path in (
        tmp_path / "other/checkpoints/1/epoch-0001.ckpt",
        tmp_path / "run/checkpoints/1/../../../other/checkpoints/1/epoch-0001.ckpt",
        below / "2/epoch-0001.ckpt",
        below / "1/epoch-0001.ckpt.tmp-1",
        below / "1/epoch-0001.ckpt\x00",
        Path("checkpoints/1/epoch-0001.ckpt"),
        below / "1",
    ):
        assert not checkpoints.verify(replace(ref, path=str(path)))
    assert not checkpoints.verify(replace(ref, attempt=attempt(2)))


def test_links_are_not_followed(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path / "run"))
    ref = save(checkpoints, 1, 1)
    real = tmp_path / "elsewhere"
    Path(ref.path).rename(real)
    Path(ref.path).symlink_to(real)
    assert not checkpoints.verify(ref)
    Path(ref.path).unlink()
    os.mkfifo(ref.path)
    assert not checkpoints.verify(ref)

    trap = tmp_path / "trap"
    trap.mkdir()
    (tmp_path / "run" / "checkpoints" / "7").symlink_to(trap)
    with pytest.raises(StoreError):
        save(checkpoints, 7, 2)
    assert list(trap.iterdir()) == []


def test_a_run_whose_folder_lies_behind_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large disk")
    checkpoints = FileCheckpoints(str(tmp_path / "runs" / "run"))
    assert checkpoints.verify(save(checkpoints, 1, 1))


def test_nothing_starts_on_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(str(tmp_path / "run"))
    checkpoints.require_space(0)
    with refusal("E5013"):
        checkpoints.require_space(10**18)
    ref = save(checkpoints, 1, 1)
    checkpoints.require_space(0)
    os.truncate(ref.path, 10**13)  # a hole: it takes no room itself, but the next would
    with refusal("E5013") as caught:
        checkpoints.require_space(0)
    assert "30000.0 GB are asked for" in caught.value.why[0]
