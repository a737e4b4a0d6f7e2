"""A run's checkpoints on disk: written whole, read back, hashed, and only then given a name."""

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import StoreError
from orchestrator.store.faults import explained_disk
from orchestrator.store.kept import kept_in, remove_kept, verified_size
from orchestrator.store.line import FOLDER, CheckpointFile, UnfinishedFile, needed, parsed_name
from orchestrator.store.private import make_folder, names_in, opened_file, opened_folder
from orchestrator.types import AttemptId, Bytes, CheckpointRef

__all__ = ["DEFAULT_RESERVE_BYTES", "FileCheckpoints"]

DEFAULT_RESERVE_BYTES: Bytes = 5 * 10**9
"""What has to be free on the disk before an attempt starts."""


class FileCheckpoints:
    """Keeps the Checkpoints contract in ``<folder>/checkpoints/<attempt>/epoch-0003.ckpt``.

    The name of the best carries ``.best``. What is kept of the epoch after the third lies beside,
    as ``unfinished-0003-<steps>-<SHA-256>.ckpt``: one file, until there is a later one. Nothing is
    reached through a symbolic link below `folder`. Each attempt writes into a folder of its own,
    so an old one that is still alive can only leave files that nobody refers to.

    Args:
        folder: The run's folder, absolute; made when it is not there.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).absolute()

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
        """Write a checkpoint and verify it; then remove those that are not needed any more.

        With `step`, it is what is kept of the next epoch after so many optimizer steps.

        Kept are the last two of the run and the best before this one. An exception of `write`
        passes as it is, unless it comes from the disk.

        Raises:
            StoreError: the disk is full (E5004), `check` cannot load what was written (E5012),
                the attempt wrote another checkpoint of this epoch before (E5018), or the disk
                failed (E5016). Earlier checkpoints stay untouched then.
        """
        whole = CheckpointFile(attempt.number, epoch, is_best)

        def name_of(digest: str, folder: int) -> str:
            if step:
                return UnfinishedFile(epoch, step, attempt.number, digest).name
            return "" if _is_there(folder, whole, digest) else whole.name

        with explained_disk(f"the folder {self._folder}"), ExitStack() as stack:
            make_folder(self._folder)
            run = stack.enter_context(opened_folder(str(self._folder)))
            above = stack.enter_context(opened_folder(FOLDER, inside=run, make=True))
            own = stack.enter_context(opened_folder(str(attempt.number), inside=above, make=True))
            _remove_begun(above, attempt.number)
            digest, size = _write_verified(own, epoch, write, check, name_of)
            kept = UnfinishedFile(epoch, step, attempt.number, digest) if step else None
            if kept is None:
                _remove_needless(above, whole)
                _forget(above, whole)
            remove_kept(above, attempt.number, but=kept)
        path = self._folder / (kept or whole).path
        return CheckpointRef(
            attempt=attempt,
            epoch=epoch,
            path=str(path),
            sha256=digest,
            num_bytes=size,
            is_best=is_best,
        )

    def unfinished(self, attempt: AttemptId, epoch: int) -> CheckpointRef | None:
        """The most that was kept of the epoch after `epoch` and is as it was written."""
        with suppress(OSError), ExitStack() as stack:
            run = stack.enter_context(opened_folder(str(self._folder)))
            above = stack.enter_context(opened_folder(FOLDER, inside=run))
            found = [file for file in kept_in(above) if file.epoch == epoch]
            for file in sorted(found, reverse=True):
                size = verified_size(above, file)
                if size is not None:
                    return CheckpointRef(
                        attempt=replace(attempt, number=file.attempt),
                        epoch=epoch,
                        path=str(self._folder / file.path),
                        sha256=file.sha256,
                        num_bytes=size,
                    )
        return None

    def verify(self, ref: CheckpointRef) -> bool:
        """True when the file lies where this run keeps it and has the recorded SHA-256."""
        path = Path(ref.path)
        if path.parent != self._folder / FOLDER / str(ref.attempt.number):
            return False
        if not parsed_name(ref.attempt.number, path.name):
            return False
        try:
            with ExitStack() as stack:
                run = stack.enter_context(opened_folder(str(self._folder)))
                above = stack.enter_context(opened_folder(FOLDER, inside=run))
                own = stack.enter_context(opened_folder(path.parent.name, inside=above))
                file = stack.enter_context(opened_file(own, path.name))
                if os.fstat(file.fileno()).st_size != ref.num_bytes:
                    return False
                return hashlib.file_digest(file, "sha256").hexdigest() == ref.sha256
        except OSError:
            return False

    def require_space(self, reserve_bytes: Bytes = DEFAULT_RESERVE_BYTES) -> None:
        """Refuse to start on a disk that will soon be full.

        Raises:
            StoreError: less is free than `reserve_bytes` or than three times the last
                checkpoint (E5013).
        """
        make_folder(self._folder)
        last = max(self._folder.glob(f"{FOLDER}/*/*.ckpt"), key=_changed_at, default=None)
        last_bytes = 0 if last is None else last.lstat().st_size
        needed = max(reserve_bytes, 3 * last_bytes)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StoreError(
                f"the disk of {self._folder} has too little room to start",
                code="E5013",
                why=(
                    f"{free / 1e9:.1f} GB are free; {needed / 1e9:.1f} GB are asked for",
                    f"the last checkpoint has {last_bytes / 1e9:.3f} GB",
                ),
                fix=("free space on that disk, or lower the reserve",),
            )


class _Raw(io.FileIO):
    """A file that remembers why a write failed; serialisers tend to raise something else."""

    failure: OSError | None = None

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # any buffer, as FileIO takes it
        except OSError as error:
            self.failure = error
            raise


def _write_verified(
    folder: int,
    epoch: int,
    write: Callable[[BinaryIO], None],
    check: Callable[[BinaryIO], None],
    name_of: Callable[[str, int], str],
) -> tuple[str, int]:
    """Write it, and give it the name that its hash has; none where `name_of` finds it there."""
    temporary = f"epoch-{epoch:04d}.ckpt.tmp-{os.getpid()}"
    try:
        _write_durably(folder, temporary, write)
        with opened_file(folder, temporary) as written:
            try:
                check(written)
            except Exception as error:
                raise StoreError(
                    f"the checkpoint of epoch {epoch} cannot be loaded back",
                    code="E5012",
                    why=(f"{type(error).__name__}: {error}",),
                    fix=("check the disk; the checkpoints before it are untouched",),
                ) from error
            written.seek(0)
            digest = hashlib.file_digest(written, "sha256").hexdigest()
            size = os.fstat(written.fileno()).st_size
        if name := name_of(digest, folder):
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
    return digest, size


def _write_durably(folder: int, name: str, write: Callable[[BinaryIO], None]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    raw = _Raw(os.open(name, flags, 0o600, dir_fd=folder), "wb")
    try:
        with io.BufferedWriter(raw) as buffer:
            write(buffer)
            buffer.flush()
            os.fsync(buffer.fileno())
    except Exception:
        if raw.failure is not None:
            raise raw.failure from None
        raise


def _is_there(folder: int, file: CheckpointFile, digest: str) -> bool:
    """True when the attempt has written the same already; a different one is never replaced.

    The file may be recorded, and a record tells one hash.
    """
    for name in names_in(folder):
        found = parsed_name(file.attempt, name)
        if found is None or found.epoch != file.epoch:
            continue
        with opened_file(folder, name) as earlier:
            if found == file and hashlib.file_digest(earlier, "sha256").hexdigest() == digest:
                return True
        raise StoreError(
            f"attempt {file.attempt} has already written a checkpoint of epoch {file.epoch}",
            code="E5018",
            why=(name,),
            fix=("this is a bug of the trainer: it saves an epoch once",),
        )
    return False


def _remove_begun(folder: int, newest: int) -> None:
    """Remove what attempts up to `newest` began to write when they were killed."""
    for number in names_in(folder):
        if number.isdecimal() and int(number) <= newest:
            with suppress(OSError), opened_folder(number, inside=folder) as own:
                for name in names_in(own):
                    if ".ckpt.tmp-" in name:
                        os.unlink(name, dir_fd=own)


def _remove_needless(folder: int, newest: CheckpointFile) -> None:
    """Remove what the run does not need after `newest`, unless a newer attempt has taken over."""
    found = _found(folder)
    if any(file.attempt > newest.attempt for file in found):
        return
    for file in found - needed(found, newest):
        # What cannot be removed now is removed after the next checkpoint.
        with suppress(OSError), opened_folder(str(file.attempt), inside=folder) as own:
            os.unlink(file.name, dir_fd=own)


def _forget(folder: int, newest: CheckpointFile) -> None:
    """Let the system's cache have the memory of those that are kept before `newest`.

    They are on the disk and hardly ever read. The next one is written into that memory, and
    pictures that every epoch reads are not pushed out: what one epoch leaves is often more than
    they are. Memory that a virtual machine has not used yet costs it ten times as long to fill.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for file in _found(folder) - {newest}:
        with suppress(OSError), ExitStack() as stack:
            own = stack.enter_context(opened_folder(str(file.attempt), inside=folder))
            kept = stack.enter_context(opened_file(own, file.name))
            os.posix_fadvise(kept.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _found(folder: int) -> set[CheckpointFile]:
    found = set()
    for number in names_in(folder):
        if not number.isdecimal():
            continue
        with suppress(OSError), opened_folder(number, inside=folder) as own:
            found |= {file for name in names_in(own) if (file := parsed_name(int(number), name))}
    return found


def _changed_at(path: Path) -> float:
    return path.lstat().st_mtime
