"""The book of measured peaks: written as epochs are reported, next to what was predicted."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.memory.predict import installed_versions
from orchestrator.messages import (
    Event,
    GivenUp,
    NodeChanged,
    NodeJoined,
    ProgressReported,
    RunSubmitted,
)
from orchestrator.plan.budget import Target
from orchestrator.plan.correct import Peak
from orchestrator.plan.job import precision_on
from orchestrator.plan.ladder import settings_after
from orchestrator.types import Card, Progress, RunId, RunSpec, RunStatus

__all__ = ["PLAN_FILE", "Book", "BookObserver", "peak_of", "target_of"]

PLAN_FILE = "plan.json"
"""In a run's folder: what was predicted for it."""


class Book(Protocol):
    """Where peaks are kept, and what was submitted."""

    def record_peak(self, peak: Peak) -> None:
        """Keep a peak."""
        ...

    def spec(self, run_id: str) -> RunSpec:
        """What was submitted."""
        ...


def target_of(card: Card) -> Target:
    """A card of a node as a card to plan for, with what the catalogue knows of it."""
    model = None
    with suppress(ConfigError):
        model = find_card(card.name)
    return Target(
        name=model.name if model else card.name,
        memory_bytes=card.memory_bytes,
        foreign_bytes=card.foreign_bytes,
        architecture=model.architecture if model else "custom",
        compute_capability=model.compute_capability if model else None,
        is_emulated=card.is_emulated,
    )


class BookObserver:
    """Writes a row of the book when an epoch reports its peak; never stops the driver.

    Args:
        book: The store.
        log: Told of a row that could not be written.
    """

    def __init__(self, book: Book, log: Callable[[str], None] = lambda _: None) -> None:
        self._book = book
        self._log = log
        self._cards: dict[tuple[str, int], Card] = {}
        self._specs: dict[RunId, RunSpec] = {}
        self._first: dict[RunId, tuple[int, int]] = {}  # attempt, and epochs before its first one

    def __call__(self, event: Event, statuses: Sequence[RunStatus] = ()) -> None:
        """Look at an event that was recorded, and at the statuses that it changed."""
        if isinstance(event, NodeJoined | NodeChanged):
            for card in event.node.cards:
                self._cards[(event.node.node_id, card.index)] = card
        elif isinstance(event, RunSubmitted):
            self._specs[event.spec.run_id] = event.spec
        elif isinstance(event, ProgressReported) and event.progress.peak_bytes:
            try:
                self._write(event, statuses)
            except OrchestratorError as error:
                self._log(f"the measured memory of {event.attempt} is not in the book: {error}")
        for status in statuses:
            if status.state.is_terminal:
                self._specs.pop(status.run_id, None)
                self._first.pop(status.run_id, None)

    def _write(self, event: ProgressReported, statuses: Sequence[RunStatus]) -> None:
        run_id = event.attempt.run_id
        status = next((s for s in statuses if s.run_id == run_id), None)
        share = status.placement.shares[0] if status and status.placement else None
        card = None
        if share is not None and share.card is not None:
            card = self._cards.get((share.node_id, share.card))
        if card is None:
            return  # a run on the CPU has no card to learn about
        spec = self._specs.get(run_id) or self._book.spec(run_id)
        self._specs[run_id] = spec
        number, begun = self._first.get(run_id, (0, 0))
        if number != event.attempt.number:
            begun = event.progress.epoch - 1
            self._first[run_id] = event.attempt.number, begun
        num_epochs = event.progress.epoch - begun
        self._book.record_peak(
            peak_of(spec, card, event.progress, num_epochs, str(event.attempt), event.at)
        )


def peak_of(
    spec: RunSpec, card: Card, progress: Progress, num_epochs: int, attempt: str, at: float
) -> Peak:
    """The row of an attempt that has completed `num_epochs` epochs like this one.

    Epochs are reported after their validation; ultralytics' `val: false` leaves it out.
    """
    target = target_of(card)
    if progress.rungs:  # another step than the one that was planned
        given = map(GivenUp.parse, progress.rungs)
        spec = replace(spec, folder="", settings=settings_after(spec.settings, given))
    plan = _plan_of(spec, target.name, progress.micro_batch)
    steps = progress.num_images // max(1, spec.effective_batch)
    return Peak(
        trainer=spec.trainer,
        model=spec.settings.model.removeprefix("timm/"),
        imgsz=spec.settings.imgsz,
        micro_batch=progress.micro_batch,
        precision=precision_on(spec.trainer, spec.settings.amp, target),
        optimizer=spec.settings.optimizer,
        card=target.name,
        is_emulated=card.is_emulated,
        versions=installed_versions(),
        peak_bytes=progress.peak_bytes,
        peak_reserved_bytes=getattr(progress, "peak_reserved_bytes", 0),
        steps=steps * num_epochs,
        has_validation=spec.settings.options.get("val", True) is not False,
        predicted_bytes=plan.get("traced_bytes"),
        workload=plan.get("workload", ""),
        at=at,
        attempt=attempt,
    )


def _plan_of(spec: RunSpec, card: str, micro_batch: int) -> dict[str, Any]:
    """What was predicted for a run on such a card; empty where nothing was, or it was recut."""
    if not spec.folder:
        return {}
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((Path(spec.folder) / PLAN_FILE).read_text("utf-8"))
        for plan in found["plans"]:
            if plan["gpu"] == card and plan["micro_batch"] == micro_batch:
                return dict(plan)
    return {}
