"""Settings that are chosen by a measurement: tried once for a card and a model, then remembered.

The trial runs in a process of its own, before the training begins: it draws no chance of the
training, changes none of its weights, and can be ended when it takes too long. What it found is
told with the first epoch and kept in the store, and every attempt is told what is known when it is
placed, so that the next run of the kind does not try again, wherever it trains.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchestrator.ports import Device
from orchestrator.trainer.options_auto import (
    AUTO_KEYS,
    auto_names,
    can_be,
    card_named,
    kind_of,
    versions_of,
)
from orchestrator.types import Finding, Scalar, Seconds, TrainSettings, TrainTask

__all__ = ["Choices", "chosen"]

log = logging.getLogger(__name__)

_BUDGET: Seconds = 120.0  # for all of a trial; torch.compile alone can take minutes on a CPU


class Choices:
    """The measured settings of an attempt, and which of them nobody knew before.

    Args:
        rows: All of them.
        known: What the attempt was told when it was placed.
    """

    def __init__(self, rows: Sequence[Finding] = (), known: Sequence[Finding] = ()) -> None:
        self.rows = tuple(rows)
        self._new = tuple(row for row in self.rows if row not in known)

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """The settings with what was chosen."""
        values = {row.name: row.value for row in self.rows}
        own = {name: values.pop(name) for name in ("workers", "cache") if name in values}
        return replace(settings, options={**settings.options, **values}, **own)  # type: ignore[arg-type] # each of its field's type

    def told(self) -> dict[str, Any]:
        """What an epoch tells of them; what is new only once, since the journal keeps it."""
        new, self._new = self._new, ()
        return {"choices": tuple(map(str, self.rows)), "findings": new}


def chosen(
    trainer: str,
    task: TrainTask,
    device: Device,
    about: dict[str, Any],
    *,
    budget: Seconds = _BUDGET,
) -> tuple[Finding, ...]:
    """What the settings that are left to a measurement should be; tries what is not known yet.

    A trial that fails, or takes longer than its budget, leaves things as they are by default, and
    says so: that is remembered as well.

    Args:
        trainer: timm or yolo.
        task: The attempt; tells what is known.
        device: The card that the trial may use as well, before the training does.
        about: What the trial of this trainer has to know besides, as JSON has it.
        budget: Seconds after which the trial is ended.

    Raises:
        ConfigError: E1103, one of them cannot be measured.
    """
    names = auto_names(trainer, task.spec.settings.options)
    asked = {name: _asked(trainer, task, device, name) for name in names}
    known = {name: _known(task, asked[name]) for name in names}
    missing = [name for name in names if known[name] is None]
    tried = _tried(trainer, task, device, about | {"names": missing}, budget) if missing else {}
    rows = tuple(known[name] or replace(asked[name], **tried[name]) for name in names)
    for row in rows:
        log.info("%s %s", "measured:" if row.name in missing else "known from before:", row)
    return rows


def _asked(trainer: str, task: TrainTask, device: Device, name: str) -> Finding:
    """A setting and what its answer will hold for; its value is still unknown."""
    settings = task.spec.settings
    kind = kind_of(
        name,
        settings,
        micro_batch=task.batch.micro_batch,
        num_cpus=_cpu_count(),
        versions=versions_of(trainer),
        is_on_cpu=not device.torch_device.startswith("cuda"),
    )
    return Finding(
        trainer=trainer,
        card=card_named(device.name),
        model=settings.model,
        kind=kind,
        name=name,
        value=None,
        told="",
    )


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _known(task: TrainTask, asked: Finding) -> Finding | None:
    """What is known of a setting, the newest last; a value that cannot be one is not known."""
    for each in reversed(task.findings):
        if replace(each, value=None, told="", is_measured=True) == asked and can_be(
            each.name, each.value
        ):
            return each
    return None


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
        default = _default(trainer, task, device, name)
        found.setdefault(name, {"value": default, "told": why, "is_measured": False})
    return found


def _default(trainer: str, task: TrainTask, device: Device, name: str) -> Scalar:
    if name == "workers":
        return task.spec.settings.workers
    value = AUTO_KEYS[trainer][name]
    return value and (name != "channels_last" or device.torch_device.startswith("cuda"))
