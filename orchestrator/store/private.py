"""Names, folders and files of our own: checked, never reached through a link, closed to others."""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.errors import StoreError

__all__ = [
    "check_name",
    "make_folder",
    "names_in",
    "opened_file",
    "opened_folder",
    "replace_file",
    "sync_folder",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str, what: str) -> str:
    """Return the name of a run or a project when it can be a file's name anywhere.

    Raises:
        StoreError: it is not 1 to 63 of ``a-z 0-9 . _ -``, starts with none of ``a-z 0-9``, or
            contains ``..`` (E5011).
    """
    if _NAME.fullmatch(name) and ".." not in name:
        return name
    raise StoreError(
        f"{name!r:.80} cannot be the name of a {what}",
        code="E5011",
        why=("a name has 1 to 63 of a-z 0-9 . _ - and starts with a letter or a digit",),
        fix=(f"choose another name for the {what}, in lower case",),
    )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; the ones made are open to their owner alone (0700)."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened_folder(name: str, *, inside: int | None = None, make: bool = False) -> Iterator[int]:
    """Open a folder (by name inside an open one) as a descriptor, refusing a symbolic link.

    Without `inside` the folder itself may be a link: a person may keep runs on another disk.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY
    if inside is not None:
        flags |= os.O_NOFOLLOW
    if make:
        try:
            os.mkdir(name, 0o700, dir_fd=inside)
        except FileExistsError:
            pass  # as it should be; what is not a folder is refused when it is opened
        else:
            if inside is not None:
                os.fsync(inside)
    descriptor = os.open(name, flags, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names_in(folder: int) -> list[str]:
    """The names in an open folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


@contextmanager
def opened_file(folder: int, name: str) -> Iterator[io.BufferedReader]:
    """A regular file in an open folder, for reading; a link is not followed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        yield file


def replace_file(path: Path, data: bytes, *, is_durable: bool = True) -> None:
    """Put `data` in place of a file: after a crash either the old or the new content is there.

    What is not durable may be gone after a power cut: for copies of what the store has.
    """
    with opened_folder(str(path.parent)) as folder:
        temporary = f".{path.name}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):  # the first error is the one to tell; the rest is rubbish
                os.unlink(temporary, dir_fd=folder)
            raise
        if is_durable:
            os.fsync(folder)
