"""What is kept of epochs under way on a disk: found, verified, removed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from orchestrator.store.line import UnfinishedFile, parsed_unfinished
from orchestrator.store.private import names_in, opened_file, opened_folder
from orchestrator.types import Bytes

__all__ = ["kept_in", "remove_kept", "verified_size"]


def kept_in(folder: int) -> Iterator[UnfinishedFile]:
    """What any attempt has kept, in the open folder of a run's checkpoints."""
    for number in names_in(folder):
        names: list[str] = []
        if number.isdecimal():
            with suppress(OSError), opened_folder(number, inside=folder) as own:
                names = names_in(own)
        for name in names:
            if file := parsed_unfinished(int(number), name):
                yield file


def remove_kept(folder: int, newest: int, *, but: UnfinishedFile | None) -> None:
    """Remove what attempts up to `newest` have kept, unless a newer one has taken over."""
    found = list(kept_in(folder))
    if any(file.attempt > newest for file in found):
        return
    for file in found:
        if file != but:
            with suppress(OSError), opened_folder(str(file.attempt), inside=folder) as own:
                os.unlink(file.name, dir_fd=own)


def verified_size(folder: int, file: UnfinishedFile) -> Bytes | None:
    """Bytes of a file that is as its name says; None of another."""
    with ExitStack() as stack, suppress(OSError):
        own = stack.enter_context(opened_folder(str(file.attempt), inside=folder))
        content = stack.enter_context(opened_file(own, file.name))
        if hashlib.file_digest(content, "sha256").hexdigest() == file.sha256:
            return os.fstat(content.fileno()).st_size
    return None
