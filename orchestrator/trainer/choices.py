"""Settings that are chosen by a measurement: tried once for a card and a model, then remembered.

The trial runs in a process of its own, before the training begins: it draws no chance of the
training, changes none of its weights, and can be ended when it takes too long. What it found is
kept beside the run folders, so that the next run of the kind does not try again.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.ports import Device
from orchestrator.trainer.options_auto import AUTO_KEYS, auto_names
from orchestrator.types import Scalar, Seconds, TrainSettings, TrainTask

__all__ = ["BOOK", "Chosen", "chosen", "kind_of", "with_choices"]

log = logging.getLogger(__name__)

BOOK = "choices.json"
"""In the folder of run folders: what was found, by card and model."""
_LIBRARIES = {"timm": "timm", "yolo": "ultralytics"}
_BUDGET: Seconds = 120.0  # for all of a trial; torch.compile alone can take minutes on a CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A setting, what it was set to, and what the measurement said."""

    name: str
    value: Scalar
    told: str

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.name}={value} ({self.told})"


def chosen(
    trainer: str,
    task: TrainTask,
    device: Device,
    about: dict[str, Any],
    *,
    budget: Seconds = _BUDGET,
) -> tuple[Chosen, ...]:
    """What the settings that are left to a measurement should be; tries what is not known yet.

    A trial that fails, or takes longer than its budget, leaves things as they are by default, and
    says so: that is remembered as well.

    Args:
        trainer: timm or yolo.
        task: The attempt.
        device: The card that the trial may use as well, before the training does.
        about: What the trial of this trainer has to know besides, as JSON has it.
        budget: Seconds after which the trial is ended.

    Raises:
        ConfigError: E1103, one of them cannot be measured.
    """
    names = auto_names(trainer, task.spec.settings.options)
    if not names:
        return ()
    book = Path(task.spec.folder).parent / BOOK
    kind = kind_of(trainer, task, device)
    known = _read(book).get(kind, {})
    missing = [name for name in names if name not in known]
    if missing:
        found = _tried(trainer, task, device, about | {"names": missing}, budget)
        known = known | found
        _write(book, kind, known)
    rows = [Chosen(name=name, **known[name]) for name in names]
    for row in rows:
        log.info("%s %s", "measured:" if row.name in missing else "known from before:", row)
    return tuple(rows)


def with_choices(settings: TrainSettings, choices: tuple[Chosen, ...]) -> TrainSettings:
    """The settings with what was chosen."""
    values = {choice.name: choice.value for choice in choices}
    own = {name: values.pop(name) for name in ("workers", "cache") if name in values}
    return replace(settings, options={**settings.options, **values}, **own)  # type: ignore[arg-type] # each of its field's type


def kind_of(trainer: str, task: TrainTask, device: Device) -> str:
    """What a finding holds for: card, model, sizes, precision, CPUs and libraries."""
    settings = task.spec.settings
    library = _LIBRARIES[trainer]
    parts = {
        "card": device.name,
        "model": settings.model,
        "imgsz": settings.imgsz,
        "micro_batch": task.batch.micro_batch,
        "amp": settings.amp,
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "torch": metadata.version("torch"),
        library: metadata.version(library),
    }
    return " ".join(f"{key}={value}" for key, value in parts.items())


def _tried(
    trainer: str, task: TrainTask, device: Device, about: dict[str, Any], budget: Seconds
) -> dict[str, dict[str, Any]]:
    settings = task.spec.settings
    order = {
        "trainer": trainer,
        "model": settings.model,
        "imgsz": settings.imgsz,
        "micro_batch": task.batch.micro_batch,
        "amp": settings.amp,
        "data": settings.data,
        "seed": settings.seed,
        "workers": settings.workers,
        "options": {k: v for k, v in settings.options.items() if k != "auto"},
        **about,
        "device": device.torch_device,
        "budget_bytes": device.budget_bytes,
    }
    command = [sys.executable, "-m", "orchestrator.trainer.trial", json.dumps(order)]
    process = subprocess.Popen(  # noqa: S603 - a module of ours
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # the processes that compile end with it
    )
    why = "the trial ended without an answer"
    try:
        lines, errors = process.communicate(timeout=budget)
        if process.returncode:
            why = f"the trial failed: {(errors.strip().splitlines() or ['?'])[-1][:200]}"
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        lines, _ = process.communicate()
        why = f"abandoned: the trial took more than {budget:.0f} s"
    found: dict[str, dict[str, Any]] = {}
    for line in lines.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            found[row["name"]] = {"value": row["value"], "told": row["told"]}
    for name in about["names"]:
        found.setdefault(name, {"value": _default(trainer, task, device, name), "told": why})
    return found


def _default(trainer: str, task: TrainTask, device: Device, name: str) -> Scalar:
    if name == "workers":
        return task.spec.settings.workers
    value = AUTO_KEYS[trainer][name]
    return value and (name != "channels_last" or device.torch_device.startswith("cuda"))


def _read(book: Path) -> dict[str, dict[str, dict[str, Any]]]:
    with suppress(OSError, ValueError):
        found = json.loads(book.read_text("utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _write(book: Path, kind: str, rows: Mapping[str, dict[str, Any]]) -> None:
    """Add what was found; of two runs that write at once one may have to try again."""
    scratch = book.with_name(f".{book.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps({**_read(book), kind: dict(rows)}, indent=1), "utf-8")
        scratch.replace(book)
    except OSError as error:
        log.warning("what was measured is not remembered: %s", error)
