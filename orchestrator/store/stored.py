"""A run that is kept at an address: checkpoints put up as they are written, the rest at the end."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from orchestrator.address import above, joined, last_name
from orchestrator.errors import StorageError, StoreError
from orchestrator.store.checkpoints import FileCheckpoints
from orchestrator.store.line import (
    FOLDER,
    CheckpointFile,
    UnfinishedFile,
    checkpoints_of,
    cut_off,
    needed,
    parsed_name,
    unfinished_of,
)
from orchestrator.store.remote import RemoteFolder
from orchestrator.types import AttemptId, Bytes, CheckpointRef, RunSpec

__all__ = ["ScratchRun", "StoredCheckpoints", "result_name"]

_LOCKS = ".locks"
_ADDRESS = ".address"  # what is left of a killed attempt says where it belongs
_OTHERS = "others"  # checkpoints of other runs, from which this one starts
_TEXTS = (".log", ".csv", ".txt", ".yaml", ".json", ".jsonl")
_TEXT_BYTES: Bytes = 1 << 20  # larger ones are put up once, at the end
_OWN = ("logs", "attempts")  # these name the attempt already


def result_name(attempt: int, name: str) -> str:
    """Where a file of a run's folder is put up: no attempt writes over what another has left."""
    return name if name.partition("/")[0] in _OWN else f"files/attempt-{attempt}/{name}"


class StoredCheckpoints:
    """Keeps the Checkpoints contract at an address: written and verified here, then put up.

    A checkpoint that `write` returns is whole in the store, by its size, and by its content where
    reading it back costs little. Names tell attempt and epoch, and nothing is written over. What
    the run needs no more is removed there by the rule that holds on a disk.

    Args:
        remote: The run's folder in the store.
        folder: The run's folder on this node.
    """

    def __init__(self, remote: RemoteFolder, folder: str) -> None:
        self._remote = remote
        self._folder = Path(folder)
        self._local = FileCheckpoints(folder)

    def write(
        self,
        attempt: AttemptId,
        epoch: int,
        write: Callable[[BinaryIO], None],
        *,
        is_best: bool,
        check: Callable[[BinaryIO], None],
        step: int = 0,
    ) -> CheckpointRef:
        """Write and verify a checkpoint on this node, and put it up.

        With `step`, it is what is kept of the next epoch after so many optimizer steps.

        Returns:
            The checkpoint at its address; what is kept of an epoch, as a file of this node.

        Raises:
            StoreError: As `FileCheckpoints.write`; E5018, this attempt's checkpoint of the epoch
                is there already.
            StorageError: E5051, the store cannot be reached; E5052, it refuses.
        """
        ref = self._local.write(attempt, epoch, write, is_best=is_best, check=check, step=step)
        if step:
            kept = UnfinishedFile(epoch, step, attempt.number, ref.sha256)
            self._remote.put(Path(ref.path), kept.path)
            self._remove_kept(attempt.number, but=kept)
            return ref
        file = CheckpointFile(attempt.number, epoch, is_best)
        if self._remote.size(file.path) is not None:
            raise StoreError(
                f"attempt {attempt.number} has already put up a checkpoint of epoch {epoch}",
                code="E5018",
                why=(joined(self._remote.address, file.path),),
                fix=("this is a bug: an attempt saves an epoch once, and nobody else does",),
            )
        self._remote.put(Path(ref.path), file.path)
        self._remove_needless(file)
        self._remove_kept(attempt.number, but=None)
        return replace(ref, path=joined(self._remote.address, file.path))

    def verify(self, ref: CheckpointRef) -> bool:
        """True when this node has, or can fetch, the file with the recorded SHA-256.

        Raises:
            StorageError: E5051, E5052: nothing can be said of it.
        """
        file = parsed_name(ref.attempt.number, last_name(ref.path))
        if file is None or ref.path != joined(self._remote.address, file.path):
            return False
        target = self._folder / file.path
        if self._local.verify(replace(ref, path=str(target))):
            return True
        arriving = target.with_name(f".{target.name}.{os.getpid()}")
        if self._remote.get(file.path, arriving) != ref.sha256:
            arriving.unlink(missing_ok=True)
            return False
        arriving.replace(target)
        return self._local.verify(replace(ref, path=str(target)))

    def unfinished(self, attempt: AttemptId, epoch: int) -> CheckpointRef | None:
        """The most that was kept of the epoch after `epoch`, fetched to this node.

        Raises:
            StorageError: E5051, E5052: nothing can be said of it.
        """
        found = unfinished_of(self._remote.names(FOLDER))
        for file in sorted((file for file in found if file.epoch == epoch), reverse=True):
            target = self._folder / file.path
            arriving = target.with_name(f".{target.name}.{os.getpid()}")
            if self._remote.get(file.path, arriving) == file.sha256:
                arriving.replace(target)
                return CheckpointRef(
                    attempt=replace(attempt, number=file.attempt),
                    epoch=epoch,
                    path=str(target),
                    sha256=file.sha256,
                    num_bytes=target.stat().st_size,
                )
            arriving.unlink(missing_ok=True)
        return None

    def _remove_kept(self, newest: int, *, but: UnfinishedFile | None) -> None:
        """Remove what attempts up to `newest` have kept, unless a newer one has taken over."""
        with suppress(StorageError):  # what cannot be removed now is removed after the next one
            found = unfinished_of(self._remote.names(FOLDER))
            if any(file.attempt > newest for file in found):
                return
            for file in found:
                if file != but:
                    self._remote.remove(file.path)

    def _remove_needless(self, newest: CheckpointFile) -> None:
        """Remove what the run does not need, unless a newer attempt has taken over."""
        with suppress(StorageError):  # what cannot be removed now is removed after the next one
            paths = self._remote.names(FOLDER)
            found = set(checkpoints_of(paths))
            if any(file.attempt > newest.attempt for file in found):
                return
            needless = [file.path for file in sorted(found - needed(found, newest))]
            for path in (*needless, *cut_off(paths, newest.attempt)):
                self._remote.remove(path)


class ScratchRun:
    """Implements StoredRun: a folder of this node, and the run's folder in its store.

    What an attempt left here when it was killed is put up and removed by the next one that starts
    on the node, of whichever run: a lock that ends with its process tells the dead.

    Args:
        spec: The run; `storage` is its store.
        attempt: Whose files these are.
        rank: Which of the gang's.
        root: The folder of all scratch of this node.
        remote: Opens the folder of a run in a store.
    """

    def __init__(
        self,
        spec: RunSpec,
        attempt: AttemptId,
        rank: int,
        *,
        root: Path,
        remote: Callable[..., RemoteFolder] = RemoteFolder,
    ) -> None:
        self._address = spec.address
        self._attempt = attempt.number
        self._open = remote
        self._known: dict[str, tuple[int, int]] = {}  # what was put up: when changed, how long
        name = f"{spec.run_id}.{attempt.number}-{rank}"
        self._folder = root / spec.project / name
        self.folder = str(self._folder)
        _rescue(root, remote)
        self._lock_path = root / _LOCKS / name
        self._lock = _locked(self._lock_path)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / _ADDRESS).write_text(f"{attempt.number} {spec.address}", encoding="utf-8")

    def checkpoints(self, address: str) -> StoredCheckpoints:
        """The checkpoints of the run whose folder has this address."""
        return StoredCheckpoints(self._open(address), str(self._place(address)))

    def here(self, ref: CheckpointRef) -> CheckpointRef:
        """The same checkpoint as a file of this node."""
        place = self._place(above(ref.path, 3))
        return replace(
            ref, path=str(place / FOLDER / str(ref.attempt.number) / last_name(ref.path))
        )

    def put_texts(self) -> None:
        """Put logs and tables up as they are now; a store that fails is told in the log."""
        try:
            once = self._open(self._address, pauses=())
            _put(self._folder, once, self._attempt, self._known, only_texts=True)
        except StoreError as error:
            sys.stderr.write(f"logs are put up later: {error.what}: {'; '.join(error.why)}\n")

    def close(self) -> None:
        """Put up all that is left, and remove the folder.

        Raises:
            StorageError: E5051, E5052: the files stay here.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            _put(self._folder, self._open(self._address), self._attempt, self._known)
        except StorageError as error:
            raise StorageError(
                f"what attempt {self._attempt} has left cannot be put up",
                code=error.code,
                why=(error.what, *error.why, f"it is kept on this node in {self._folder}"),
                fix=error.fix,
            ) from error
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def _place(self, address: str) -> Path:
        if address == self._address:
            return self._folder
        return self._folder / _OTHERS / last_name(address)


def _put(
    folder: Path,
    remote: RemoteFolder,
    attempt: int,
    known: dict[str, tuple[int, int]],
    *,
    only_texts: bool = False,
) -> None:
    """Put up the files of a run's folder that are not `known`, but for checkpoints and hidden ones.

    A log may grow meanwhile: what is small goes up as it was read.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        is_kept = name.partition("/")[0] in (FOLDER, _OTHERS)
        if is_kept or is_hidden or path.is_symlink() or not path.is_file():
            continue
        state = path.stat()
        is_small = state.st_size <= _TEXT_BYTES
        seen = (state.st_mtime_ns, state.st_size)
        is_wanted = not only_texts or (is_small and path.suffix in _TEXTS)
        is_void = not state.st_size and path.suffix != ".log"  # opened in case of something
        if not is_wanted or is_void or known.get(name) == seen:
            continue
        remote.put(path.read_bytes() if is_small else path, result_name(attempt, name))
        known[name] = seen


def _locked(path: Path) -> int:
    """A lock that is held as long as this process lives, as the descriptor of its file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _rescue(root: Path, remote: Callable[..., RemoteFolder]) -> None:
    """Put up what killed attempts have left on this node, and remove it; what fails stays."""
    for place in sorted(root.glob(f"*/*/{_ADDRESS}")):
        lock = root / _LOCKS / place.parent.name
        with suppress(OSError, ValueError, StoreError), lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            number, _, address = place.read_text(encoding="utf-8").partition(" ")
            _put(place.parent, remote(address, pauses=()), int(number), {})
            shutil.rmtree(place.parent, ignore_errors=True)
            lock.unlink(missing_ok=True)
