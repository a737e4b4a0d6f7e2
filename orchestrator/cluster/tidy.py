"""Whether a process is as clean after a training as before: then another may follow in it."""

import gc
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from orchestrator.ports import Device

__all__ = ["Surroundings", "noted"]

_SHARED = gc.get_freeze_count()  # frozen by the fork server that this process comes from


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a training could leave behind for the next one in its process."""

    environment: Mapping[str, str]
    folder: str
    children: frozenset[int]
    threads: frozenset[int]  # those that keep a process from ending
    path: tuple[str, ...]

    def put_back(self, device: Device) -> tuple[str, ...]:
        """Put back what can be; says what is left beyond that, empty when nothing is.

        Libraries set environment variables and append to the path of modules when they are
        imported: those go. Garbage is collected, and the card's cached memory given back.
        """
        device.release()
        _collect()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        sys.path[:] = self.path
        now, found = noted(), []
        if left := now.children - self.children:
            found.append(f"{len(left)} child processes")
        if left := now.threads - self.threads:
            found.append(f"{len(left)} threads")
        if live := device.live_bytes():
            found.append(f"{live} bytes of tensors")
        return (*found, *_torch_left())


def noted() -> Surroundings:
    """The process as it is."""
    threads = (t for t in threading.enumerate() if not t.daemon and t.ident is not None)
    return Surroundings(
        environment=dict(os.environ),
        folder=str(Path.cwd()),
        children=frozenset(child.pid for child in psutil.Process().children()),
        threads=frozenset(thread.ident for thread in threads if thread.ident is not None),
        path=tuple(sys.path),
    )


def _collect() -> None:
    """Collect garbage; what is left the first time are libraries, which are not looked at again.

    They are a million objects, and each collection, those of a training too, goes through all.
    """
    gc.collect()
    if gc.get_freeze_count() <= _SHARED:
        gc.freeze()


def _torch_left() -> tuple[str, ...]:
    """Settings of torch that a training has to put back; those that it sets itself do not count."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ()
    found = []
    if torch.get_default_dtype() is not torch.float32:
        found.append(f"torch's default type {torch.get_default_dtype()}")
    if not torch.is_grad_enabled():
        found.append("gradients switched off")
    if torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu"):
        found.append("autocast switched on")
    if torch.cuda.is_initialized() and torch.cuda.memory_allocated():
        found.append(f"{torch.cuda.memory_allocated()} bytes on the card")
    return tuple(found)
