"""A run at an address: what is named is whole, what is damaged is left aside, none is lost."""

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pyarrow.fs import (
    FileInfo,
    FileSelector,
    FileSystem,
    FileSystemHandler,
    LocalFileSystem,
    PyFileSystem,
    SubTreeFileSystem,
    _MockFileSystem,
)

from orchestrator.errors import StoreError
from orchestrator.store.remote import RemoteFolder
from orchestrator.store.stored import ScratchRun, StoredCheckpoints, result_name
from orchestrator.types import AttemptId, CheckpointRef, RunId, RunSpec, TrainSettings


class FailingStore(FileSystemHandler):  # type: ignore[misc] # pyarrow has no annotations
    """A file system that hands on to another one, and fails when it is told to."""

    def __init__(self, within: FileSystem) -> None:
        self.within = within
        self.fails: Callable[[str, str], Exception | None] = lambda _what, _path: None
        self.writes: list[str] = []

    def _look(self, what: str, path: str) -> None:
        error = self.fails(what, path)
        if error is not None:
            raise error

    def get_type_name(self) -> str:
        return "failing"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        self._look("look", paths[0])
        found: list[FileInfo] = self.within.get_file_info(paths)
        return found

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        self._look("list", selector.base_dir)
        found: list[FileInfo] = self.within.get_file_info(selector)
        return found

    def create_dir(self, path: str, recursive: bool) -> None:
        self.within.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        self.within.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        self.within.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        self._look("remove", path)
        self.within.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._look("move", dest)
        self.within.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.within.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        self._look("read", path)
        return self.within.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self.within.open_input_file(path)

    def open_output_stream(self, path: str, metadata: object) -> Any:
        self.writes.append(path)
        error = self.fails("write", path)
        if error is not None:  # half of it arrives
            with self.within.open_output_stream(path) as stream:
                stream.write(b"the first half of")
            raise error
        return self.within.open_output_stream(path)

    def open_append_stream(self, path: str, metadata: object) -> Any:
        raise NotImplementedError


class Place:
    """A store in a folder of the test that fails on request, and what was waited for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = FailingStore(SubTreeFileSystem(str(folder), LocalFileSystem()))
        self.waited: list[float] = []
        folder.mkdir()

    def open(self, address: str, pauses: tuple[float, ...] = (1.0, 2.0, 4.0)) -> RemoteFolder:
        return RemoteFolder(
            address,
            pauses=pauses,
            sleep=self.waited.append,
            open_=lambda text: (PyFileSystem(self.store), text.partition("://")[2]),
        )

    def run(self, name: str = "run") -> Path:
        return self.folder / "bucket" / "cells" / name


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "far")


ROOT = "s3://bucket"
ADDRESS = f"{ROOT}/cells/run"


def attempt(number: int, run: str = "run") -> AttemptId:
    return AttemptId(run_id=RunId(run), number=number)


def content(number: int, epoch: int) -> bytes:
    return random.Random(f"{number}/{epoch}").randbytes(3000)


def accept(file: BinaryIO) -> None:
    assert len(file.read()) == 3000


def save(
    checkpoints: StoredCheckpoints,
    number: int,
    epoch: int,
    *,
    is_best: bool = False,
    step: int = 0,
) -> CheckpointRef:
    def write(file: BinaryIO) -> None:
        file.write(content(number, epoch + step))

    return checkpoints.write(
        attempt(number), epoch, write, is_best=is_best, check=accept, step=step
    )


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def failing(what: str, times: int, error: Exception) -> Callable[[str, str], Exception | None]:
    left = [times]

    def fails(done: str, _path: str) -> Exception | None:
        if done == what and left[0]:
            left[0] -= 1
            return error
        return None

    return fails


def refusal(code: str) -> "pytest.RaisesExc[StoreError]":
    return pytest.raises(StoreError, check=lambda error: error.code == code)


def test_a_checkpoint_is_named_by_its_address_and_lies_there(place: Place, tmp_path: Path) -> None:
    ref = save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here")), 1, 3, is_best=True)
    assert ref.path == f"{ADDRESS}/checkpoints/1/epoch-0003.best.ckpt"
    assert ref.sha256 == hashlib.sha256(content(1, 3)).hexdigest()
    assert names(place.run()) == ["checkpoints/1/epoch-0003.best.ckpt"]


def test_parameters_of_an_address_stay_at_its_end(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    address = f"{ROOT}/cells/run?region=eu-west-1"
    opened = RemoteFolder(address, open_=lambda _: (LocalFileSystem(), str(far)))
    ref = save(StoredCheckpoints(opened, str(tmp_path / "here")), 1, 1)
    assert ref.path == f"{ADDRESS}/checkpoints/1/epoch-0001.ckpt?region=eu-west-1"
    elsewhere = StoredCheckpoints(opened, str(tmp_path / "there"))
    assert elsewhere.verify(ref)


def test_it_is_fetched_where_another_node_goes_on(place: Place, tmp_path: Path) -> None:
    ref = save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one")), 1, 1)
    assert StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two")).verify(ref)
    fetched = tmp_path / "two" / "checkpoints" / "1" / "epoch-0001.ckpt"
    assert fetched.read_bytes() == content(1, 1)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_what_is_damaged_there_is_not_gone_on_from(
    place: Place, tmp_path: Path, damage: str
) -> None:
    writer = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one"))
    older, newer = save(writer, 1, 1), save(writer, 1, 2)
    file = place.run() / "checkpoints/1/epoch-0002.ckpt"
    if damage == "gone":
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[:2000] if damage == "cut" else b"x" + whole[1:])
    reader = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two"))
    assert [reader.verify(ref) for ref in (newer, older)] == [False, True]
    assert names(tmp_path / "two") == ["checkpoints/1/epoch-0001.ckpt"]


def test_what_is_kept_of_an_epoch_is_fetched_where_another_node_goes_on(
    place: Place, tmp_path: Path
) -> None:
    writer = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one"))
    reader = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two"))
    assert reader.unfinished(attempt(2), 0) is None
    save(writer, 1, 1)
    save(writer, 1, 1, step=4)
    kept = save(writer, 1, 1, step=8)
    name = f"checkpoints/1/unfinished-0001-000008-{kept.sha256}.ckpt"
    assert kept.path == str(tmp_path / "one" / name)
    assert names(place.run()) == ["checkpoints/1/epoch-0001.ckpt", name]
    found = reader.unfinished(attempt(2), 1)
    assert found == replace(kept, path=str(tmp_path / "two" / name))
    assert Path(found.path).read_bytes() == content(1, 9)
    (place.run() / name).write_bytes(content(1, 10))
    fresh = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "three"))
    assert fresh.unfinished(attempt(2), 1) is None, "it is not what its name says"
    save(writer, 1, 2)
    assert names(place.run()) == ["checkpoints/1/epoch-0001.ckpt", "checkpoints/1/epoch-0002.ckpt"]


@pytest.mark.parametrize("what", ["write", "look", "read", "move"])
def test_a_fault_in_passing_is_waited_out(place: Place, tmp_path: Path, what: str) -> None:
    checkpoints = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here"))
    place.store.fails = failing(what, 3, OSError("connection reset"))
    ref = save(checkpoints, 1, 1)
    assert names(place.run()) == ["checkpoints/1/epoch-0001.ckpt"]
    assert len(place.waited) == 3
    assert all(
        0.5 * want <= got <= 1.5 * want for want, got in zip((1, 2, 4), place.waited, strict=True)
    )
    assert StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "there")).verify(ref)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_an_upload_that_fails_names_nothing_and_harms_nothing(
    place: Place, tmp_path: Path, first: int
) -> None:
    checkpoints = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here"))
    recorded: list[CheckpointRef] = []
    writes = 0

    def fails(what: str, _path: str) -> Exception | None:
        nonlocal writes
        writes += what == "write"
        return OSError("timed out") if what == "write" and writes >= first else None

    place.store.fails = fails
    with refusal("E5051"):
        for epoch in range(1, 5):
            recorded += [save(checkpoints, 1, epoch, is_best=True)]
    assert len(recorded) == first - 1
    place.store.fails = failing("", 0, OSError())
    elsewhere = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "there"))
    assert all(elsewhere.verify(ref) for ref in recorded[-2:])
    # the next attempt goes on beside what was cut off, and that is no checkpoint
    ref = save(elsewhere, 2, first)
    assert elsewhere.verify(ref)
    assert not [name for name in names(place.run()) if ".part-" in name]


def test_a_store_that_refuses_is_not_asked_again(place: Place, tmp_path: Path) -> None:
    place.store.fails = failing("look", 9, OSError("AWS Error ACCESS_DENIED during HeadObject"))
    with refusal("E5052"):
        save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here")), 1, 1)
    assert place.waited == []


def test_a_store_that_is_away_does_not_pass_for_one_without_the_checkpoint(
    place: Place, tmp_path: Path
) -> None:
    ref = save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one")), 1, 1)
    place.store.fails = failing("read", 99, OSError("timed out"))
    with refusal("E5051"):
        StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two")).verify(ref)


def test_nothing_is_written_over(place: Place, tmp_path: Path) -> None:
    save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one")), 1, 1)
    with refusal("E5018"):
        save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two")), 1, 1)
    assert (place.run() / "checkpoints/1/epoch-0001.ckpt").read_bytes() == content(1, 1)


def test_the_last_two_and_the_best_are_kept_there(place: Place, tmp_path: Path) -> None:
    checkpoints = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here"))
    for epoch in range(1, 7):
        save(checkpoints, 1, epoch, is_best=epoch == 2)
    kept = ["epoch-0002.best.ckpt", "epoch-0005.ckpt", "epoch-0006.ckpt"]
    assert names(place.run()) == [f"checkpoints/1/{name}" for name in kept]


def test_a_predecessor_that_still_lives_removes_nothing_of_its_successor(
    place: Place, tmp_path: Path
) -> None:
    old = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one"))
    new = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "two"))
    save(old, 1, 1)
    mine = [save(new, 2, epoch) for epoch in (2, 3)]
    for epoch in (2, 3, 4):
        save(old, 1, epoch)
    fresh = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "three"))
    assert all(fresh.verify(ref) for ref in mine)


def test_what_cannot_be_removed_stops_nothing(place: Place, tmp_path: Path) -> None:
    checkpoints = StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "here"))
    place.store.fails = failing("remove", 99, OSError("timed out"))
    for epoch in range(1, 5):
        save(checkpoints, 1, epoch)
    assert len(names(place.run())) == 4
    place.store.fails = failing("", 0, OSError())
    save(checkpoints, 1, 5)
    assert len(names(place.run())) == 2


def test_arrows_own_store_in_memory_serves_as_well(tmp_path: Path) -> None:
    system = _MockFileSystem()
    remote = RemoteFolder(ADDRESS, open_=lambda _: (system, "bucket/cells/run"))
    ref = save(StoredCheckpoints(remote, str(tmp_path / "one")), 1, 1)
    assert StoredCheckpoints(remote, str(tmp_path / "two")).verify(ref)
    assert remote.names() == ("checkpoints/1/epoch-0001.ckpt",)


def spec_of(run: str = "run") -> RunSpec:
    return RunSpec(
        run_id=RunId(run),
        project="cells",
        trainer="fake",
        settings=TrainSettings(model="fake", data="none", imgsz=32, epochs=2),
        effective_batch=8,
        folder="/nowhere",
        storage=ROOT,
    )


def scratch(
    place: Place, root: Path, number: int = 1, run: str = "run", rank: int = 0
) -> ScratchRun:
    return ScratchRun(spec_of(run), attempt(number, run), rank, root=root, remote=place.open)


def leave(own: ScratchRun, name: str, text: str) -> None:
    path = Path(own.folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_an_attempt_leaves_is_put_up_under_its_number_and_removed_here(
    place: Place, tmp_path: Path
) -> None:
    own = scratch(place, tmp_path / "scratch", number=2)
    leave(own, "logs/attempt-2.log", "said")
    leave(own, "weights/best.pt", "tensors")
    leave(own, ".ultralytics/settings.json", "{}")
    save(own.checkpoints(ADDRESS), 2, 1)
    own.close()
    assert names(place.run()) == [
        "checkpoints/2/epoch-0001.ckpt",
        "files/attempt-2/weights/best.pt",
        "logs/attempt-2.log",
    ]
    assert names(tmp_path / "scratch") == []


def test_texts_go_up_as_they_grow_and_only_then(place: Place, tmp_path: Path) -> None:
    own = scratch(place, tmp_path / "scratch")
    leave(own, "logs/attempt-1.log", "one")
    leave(own, "weights/last.pt", "tensors")
    own.put_texts()
    own.put_texts()
    assert len(place.store.writes) == 1
    leave(own, "logs/attempt-1.log", "one two")
    own.put_texts()
    assert (place.run() / "logs/attempt-1.log").read_text() == "one two"
    assert names(place.run()) == ["logs/attempt-1.log"]


def test_texts_that_cannot_go_up_stop_nothing_and_are_told(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = scratch(place, tmp_path / "scratch")
    leave(own, "logs/attempt-1.log", "one")
    place.store.fails = failing("write", 1, OSError("timed out"))
    own.put_texts()
    assert "timed out" in capsys.readouterr().err
    own.put_texts()
    assert (place.run() / "logs/attempt-1.log").read_text() == "one"


def test_what_cannot_be_put_up_stays_here_and_is_told(place: Place, tmp_path: Path) -> None:
    own = scratch(place, tmp_path / "scratch")
    leave(own, "weights/best.pt", "tensors")
    place.store.fails = failing("write", 99, OSError("timed out"))
    with refusal("E5051") as caught:
        own.close()
    assert own.folder in " ".join(caught.value.why)
    assert (Path(own.folder) / "weights/best.pt").read_text() == "tensors"


@pytest.fixture
def killed(place: Place, tmp_path: Path) -> Path:
    """Scratch of an attempt whose process has died: its lock went with it."""
    child = os.fork()
    if child == 0:
        leave(scratch(place, tmp_path / "scratch"), "logs/attempt-1.log", "its last words")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return tmp_path / "scratch" / "cells" / "run.1-0"


def test_what_a_killed_attempt_left_is_put_up_by_the_next_on_the_node(
    place: Place, tmp_path: Path, killed: Path
) -> None:
    other = scratch(place, tmp_path / "scratch", run="other")
    assert (place.run() / "logs/attempt-1.log").read_text() == "its last words"
    assert not killed.exists()
    assert Path(other.folder).exists()


def test_what_is_alive_is_left_alone(place: Place, tmp_path: Path) -> None:
    ranks = [scratch(place, tmp_path / "scratch", rank=rank) for rank in range(2)]
    for rank, own in enumerate(ranks):
        leave(own, f"logs/attempt-1.rank-{rank}.log", "alive")
    successor = scratch(place, tmp_path / "scratch", number=2)
    ranks[1].close()
    successor.close()
    assert (Path(ranks[0].folder) / "logs/attempt-1.rank-0.log").read_text() == "alive"
    assert names(place.run()) == ["logs/attempt-1.rank-1.log"]


def test_leftovers_wait_while_the_store_is_away(place: Place, tmp_path: Path, killed: Path) -> None:
    place.store.fails = failing("write", 99, OSError("timed out"))
    scratch(place, tmp_path / "scratch", run="other")
    assert (killed / "logs/attempt-1.log").exists()
    assert place.waited == []


def test_a_checkpoint_of_another_run_lies_apart(place: Place, tmp_path: Path) -> None:
    ref = save(StoredCheckpoints(place.open(ADDRESS), str(tmp_path / "one")), 1, 1)
    clone = scratch(place, tmp_path / "scratch", run="clone")
    assert clone.checkpoints(ADDRESS).verify(ref)
    here = clone.here(ref)
    assert Path(here.path).read_bytes() == content(1, 1)
    assert replace(here, path=ref.path) == ref
    assert Path(here.path).is_relative_to(clone.folder)
    clone.close()
    assert names(place.folder) == ["bucket/cells/run/checkpoints/1/epoch-0001.ckpt"]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("weights/best.pt", "files/attempt-3/weights/best.pt"),
        ("logs/attempt-3.log", "logs/attempt-3.log"),
        ("attempts/3/stacks.txt", "attempts/3/stacks.txt"),
    ],
)
def test_no_attempt_writes_over_the_files_of_another(name: str, want: str) -> None:
    assert result_name(3, name) == want


def test_scratch_is_for_its_owner_alone(place: Place, tmp_path: Path) -> None:
    own = scratch(place, tmp_path / "scratch")
    assert Path(own.folder).stat().st_mode & 0o077 == 0
