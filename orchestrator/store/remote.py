"""A folder in an object store or on a shared disk, by its address: put, get, list, remove."""

import hashlib
import io
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar

from orchestrator.address import is_address
from orchestrator.errors import StorageError
from orchestrator.store.faults import explained_disk
from orchestrator.types import Bytes, Seconds

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["PAUSES", "RemoteFolder", "is_refused", "opened"]

T = TypeVar("T")

PAUSES: Sequence[Seconds] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries; the clients of stores try each request a few times themselves."""

_PIECE: Bytes = 8 << 20
# Where an object is there whole or not at all, and renaming one is copying it.
_OBJECT_STORES = ("s3", "gcs", "abfs")
# What a request says that no waiting helps.
_REFUSALS = (
    "access_denied", "access denied", "accessdenied", "permission", "forbidden", "unauthorized",
    "invalid_access_key", "invalidaccesskeyid", "signature_does_not_match", "signaturedoesnotmatch",
    "http status code: 401", "http status code: 403", "unauthenticated", "no credentials",
    "expiredtoken", "no_such_bucket", "nosuchbucket",
)  # fmt: skip
_GCS_SECONDS = 30  # Google's client goes on trying for 15 minutes by itself


def opened(address: str) -> "tuple[FileSystem, str]":
    """The file system of an address, and the path of the address in it."""
    from pyarrow.fs import FileSystem

    if address.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in address:
        address += f"{'&' if '?' in address else '?'}retry_limit_seconds={_GCS_SECONDS}"
    system, path = FileSystem.from_uri(address)
    return system, path.rstrip("/")


def is_refused(error: BaseException) -> bool:
    """True when the store has answered, and the answer will not change by itself."""
    text = str(error).lower()
    return isinstance(error, PermissionError) or any(words in text for words in _REFUSALS)


class RemoteFolder:
    """A run's folder in a store, opened with the first thing that is asked of it.

    What fails in passing is tried again after a pause, each pause longer than the one before.

    Args:
        address: Of the folder.
        pauses: Between tries; empty tries once.
        sleep: Waits so many seconds.
        open_: Finds the file system of an address.
    """

    def __init__(
        self,
        address: str,
        *,
        pauses: Sequence[Seconds] = PAUSES,
        sleep: Callable[[Seconds], None] = time.sleep,
        open_: "Callable[[str], tuple[FileSystem, str]]" = opened,
    ) -> None:
        assert is_address(address), address
        self.address = address
        self._pauses = pauses
        self._sleep = sleep
        self._open = open_
        self._place: tuple[FileSystem, str] | None = None

    def put(self, source: Path | bytes, name: str) -> None:
        """Copy a file of this node, or what is given, to `name`: whole once this returns.

        Where the store can be read back for little its content is compared, else its size: object
        stores check what they are sent.

        Raises:
            StorageError: E5051, the store cannot be reached; E5052, it refuses.
        """
        what = f"the file {source}" if isinstance(source, Path) else f"what is put to {name}"
        with explained_disk(what), _readable(source) as file:
            size, digest = file.seek(0, os.SEEK_END), ""
            file.seek(0)
            if not self._is_object_store():
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._tried(partial(self._put, file, name, size, digest))

    def get(self, name: str, target: Path) -> str | None:
        """Copy `name` to a file of this node; returns its SHA-256, None where it is not there.

        Raises:
            StorageError: E5051, E5052 as `put`.
        """
        return self._tried(partial(self._get, name, target))

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it is not there. Raises as `put`."""

        def once() -> bytes | None:
            system, path = self._opened()
            try:
                with system.open_input_stream(f"{path}/{name}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._tried(once)

    def size(self, name: str) -> Bytes | None:
        """Bytes of `name`; None where it is not there. Raises as `put`."""
        return self._tried(partial(self._size, name))

    def names(self, below: str = "") -> tuple[str, ...]:
        """The files below a folder in it, by their paths in it, sorted. Raises as `put`."""

        def once() -> tuple[str, ...]:
            from pyarrow.fs import FileSelector, FileType

            system, path = self._opened()
            root = f"{path}/{below}".rstrip("/")
            chosen = FileSelector(root, allow_not_found=True, recursive=True)
            found = [i.path for i in system.get_file_info(chosen) if i.type is FileType.File]
            return tuple(sorted(each[len(path) + 1 :] for each in found))

        return self._tried(once)

    def remove(self, name: str) -> None:
        """Remove a file, tried once; what is not there is fine. Raises as `put`."""

        def once() -> None:
            system, path = self._opened()
            try:
                system.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                return

        self._tried(once, ())

    def _opened(self) -> "tuple[FileSystem, str]":
        if self._place is None:
            self._place = self._open(self.address)
        return self._place

    def _is_object_store(self) -> bool:
        return self._tried(self._opened)[0].type_name in _OBJECT_STORES

    def _put(self, file: BinaryIO, name: str, size: Bytes, digest: str) -> None:
        system, path = self._opened()
        target = f"{path}/{name}"
        written = target
        if digest:  # neither whole or absent, nor without folders
            system.create_dir(target.rpartition("/")[0], recursive=True)
            written = f"{target}.part-{os.getpid()}"
        file.seek(0)
        with system.open_output_stream(written) as stream:
            while piece := file.read(_PIECE):
                stream.write(piece)
        if digest and _digest(system.open_input_stream(written), None) != digest:
            raise OSError(f"{name} does not read back as it was written")
        if written != target:
            system.move(written, target)
        found = self._size(name)
        if found != size:
            raise OSError(f"{name} has {found} bytes there, not {size}")

    def _get(self, name: str, target: Path) -> str | None:
        system, path = self._opened()
        try:
            stream = system.open_input_stream(f"{path}/{name}")
        except FileNotFoundError:
            return None
        with _Local(target) as file:
            return _digest(stream, file)

    def _size(self, name: str) -> Bytes | None:
        from pyarrow.fs import FileType

        system, path = self._opened()
        info = system.get_file_info(f"{path}/{name}")
        return int(info.size) if info.type is FileType.File else None

    def _tried(self, action: Callable[[], T], pauses: Sequence[Seconds] | None = None) -> T:
        waits = list(self._pauses if pauses is None else pauses)
        while True:
            try:
                return action()
            except OSError as error:
                if is_refused(error):
                    raise self._error("E5052", "refuses", error, _REFUSED) from error
                if not waits:
                    raise self._error("E5051", "cannot be reached", error, _AWAY) from error
            # Many attempts lose a store at one moment, and must not come back at one.
            self._sleep(waits.pop(0) * random.uniform(0.5, 1.5))

    def _error(self, code: str, says: str, error: BaseException, fix: str) -> StorageError:
        why = " ".join(str(error).split())[:400]
        return StorageError(f"{self.address} {says}", code=code, why=(why,), fix=(fix,))


_REFUSED = "check the credentials on this node, and what they may do there"
_AWAY = "it is tried again by itself; check the address and the network of this node"


def _readable(source: Path | bytes) -> io.BufferedReader | io.BytesIO:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


class _Local:
    """A file of this node, whose faults are not taken for those of the store that it comes from."""

    def __init__(self, path: Path) -> None:
        self._what = f"the file {path}"
        with explained_disk(self._what):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")

    def write(self, piece: bytes) -> None:
        with explained_disk(self._what):
            self._file.write(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with explained_disk(self._what):
            self._file.close()


def _digest(stream: Any, file: _Local | None) -> str:
    """SHA-256 of what a stream still holds, copied into a file where there is one."""
    digest = hashlib.sha256()
    with stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            if file is not None:
                file.write(piece)
    return digest.hexdigest()
