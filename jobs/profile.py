"""Measures each project of a config here for a few steps, and records the peaks: no run is made."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.parts import LocalParts
from orchestrator.client import survey
from orchestrator.client.access import Client, new_run_id
from orchestrator.client.feasible import cards_for
from orchestrator.client.fitting import Fitted, fit_run, kinds_of, write_plan
from orchestrator.client.planner import planner_of
from orchestrator.client.plans import Planner
from orchestrator.config.check import check_files
from orchestrator.config.load import Project, load_config
from orchestrator.console import plan as console
from orchestrator.console.say import say
from orchestrator.errors import NoDeviceError
from orchestrator.memory.book import target_of
from orchestrator.memory.measure import measure
from orchestrator.plan.correct import Peak
from orchestrator.types import Card

__all__ = ["profile"]


def profile(
    path: Path | None, words: Sequence[str], *, steps: int, home: Path | None, as_json: bool
) -> int:
    """Train and validate a little of every project on the first card for it; record the peaks."""
    config = load_config(path, words)
    cards = cards_for([project.template for project in config.projects], config.emulate)
    check_files(config.projects)
    client = Client(home)
    planner = planner_of(client, say)
    peaks: list[Peak] = []
    for project in config.projects:
        peaks.append(_measure(project, cards, client, planner, steps))
        with client.store() as store:  # a later project may fail
            store.record_peak(peaks[-1])
    console.show_book(peaks, as_json=as_json)
    return 0


def _measure(
    project: Project, cards: Sequence[Card], client: Client, planner: Planner, steps: int
) -> Peak:
    spec, facts = survey.project_facts(project, client)
    kinds = kinds_of(cards, spec.gpu_types)
    if not kinds:
        raise NoDeviceError(
            f"project {project.name} has no card to be measured on",
            code="E2010",
            fix=('emulate one: --emulate-gpus "RTX 2060 6GB"',),
        )
    is_predicted = project.fitting.is_predicted
    fitted = (
        fit_run(spec, facts, project.fitting, kinds, planner) if is_predicted else Fitted(spec=spec)
    )
    names = {plan.gpu for plan in fitted.plans} or {kind.name for kind in kinds}
    card = next(card for card in cards if target_of(card).name in names)
    with tempfile.TemporaryDirectory(prefix="orc-profile-") as folder:
        return _run(fitted, card, Path(folder), steps, facts.num_images)


def _run(fitted: Fitted, card: Card, folder: Path, steps: int, num_images: int) -> Peak:
    settings = replace(fitted.spec.settings, workers=0)
    spec = replace(
        fitted.spec, run_id=new_run_id(time.time()), folder=str(folder), settings=settings
    )
    write_plan(folder, fitted)
    name = f"{card.name} (emulated)" if card.is_emulated else card.name
    say(f"{spec.project}: {steps} steps and validation on {name}")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result
        return measure(spec, card, LocalParts(), steps, num_images=num_images)
