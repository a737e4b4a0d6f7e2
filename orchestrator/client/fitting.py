"""From what was asked to what is submitted: the cut and the share that are fine on every card."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.client.plans import CardPlan, Planner, ladder_of
from orchestrator.client.suggest import suggestions
from orchestrator.config.types import Fitting
from orchestrator.errors import OrchestratorError, PlanError
from orchestrator.memory.book import PLAN_FILE, target_of
from orchestrator.memory.predict import is_unpredictable
from orchestrator.plan.budget import Target, budget_of
from orchestrator.plan.choose import Choice
from orchestrator.plan.job import Facts, job_of
from orchestrator.plan.ladder import Rung
from orchestrator.plan.sharded import KEY, place_of
from orchestrator.schedule.asks import is_kind
from orchestrator.types import Bytes, Card, RunSpec

__all__ = ["Fitted", "fit_run", "kinds_of", "write_plan"]

# BatchNorm: the error of ResNet-50 is 23.6 % with 32 samples a card, 24.8 % with 8, 27.3 % with 4
# and 34.7 % with 2 (Wu and He 2018, arXiv 1803.08494, table 2). A card that cuts finer is passed
# over where a larger one is allowed.
LEAST_WORTHWHILE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A run that is planned: `spec` goes to the scheduler, `plans` say what it means by card."""

    spec: RunSpec
    plans: tuple[CardPlan, ...] = ()
    said: str = ""  # for people


def kinds_of(cards: Sequence[Card], gpu_types: Sequence[str]) -> tuple[Target, ...]:
    """The kinds among the cards that a run may use, the smallest first.

    Of several cards of one kind the one that others hold least of stands for all: a run waits for
    it, but is not refused for what others do on the rest.
    """
    found: dict[tuple[str, int], Target] = {}
    for card in cards:
        if gpu_types and not any(is_kind(wanted, card.name) for wanted in gpu_types):
            continue
        target = target_of(card)
        key = (target.name, target.memory_bytes)
        if key not in found or target.foreign_bytes < found[key].foreign_bytes:
            found[key] = target
    return tuple(sorted(found.values(), key=lambda target: target.memory_bytes))


def fit_run(
    spec: RunSpec, facts: Facts, fitting: Fitting, kinds: Sequence[Target], planner: Planner
) -> Fitted:
    """Plan a run on every kind of card and turn the plans into one spec.

    The spec carries the micro-batch of the smallest card that is worthwhile, and a share that is
    enough for it on every card where the scheduler may put it. `resources.memory` given by hand
    stays as it is and is the budget. What cannot be predicted takes a whole card, as asked, and so
    does everything where no kind of card is known yet.

    Raises:
        PlanError: E2022, no card is large enough; says what would fit.
    """
    choices: list[tuple[Target, Choice]] = []
    if not kinds:
        return Fitted(spec=spec)
    try:
        for target, budget in _with_room(spec, fitting, kinds):
            job = job_of(spec, facts, target)
            choices.append((target, planner.choose(job, target, budget, ladder_of(spec, fitting))))
    except OrchestratorError as error:
        if not is_unpredictable(error):
            raise
        why = "; ".join((error.what, *error.why))
        return Fitted(spec=spec, said=f"{spec.project}: memory unknown, takes a whole card ({why})")
    good = [(target, choice) for target, choice in choices if choice.fits]
    if not good:
        raise _too_small(spec, facts, fitting, choices[-1], planner)
    _, chosen = _worthwhile(good)
    every = [planner.at(spec, facts, fitting, target, chosen) for target, _ in choices]
    plans = tuple(plan for plan in every if plan.fits)
    return Fitted(spec=_planned(spec, chosen, plans, every), plans=plans, said=_said(spec, plans))


def _with_room(
    spec: RunSpec, fitting: Fitting, kinds: Sequence[Target]
) -> list[tuple[Target, Bytes]]:
    """The kinds of which something is left to plan with, and what; raises where none has any."""
    found, full = [], None
    for kind in kinds:
        target = replace(kind, limit_bytes=spec.memory_bytes)
        try:
            found.append((target, budget_of(target, fitting.headroom)))
        except PlanError as error:
            full = error
    if not found and full is not None:
        raise full
    return found


def _worthwhile(good: Sequence[tuple[Target, Choice]]) -> tuple[Target, Choice]:
    """The smallest card that asks for no more rungs than the largest, and cuts no finer than 8."""
    best = good[-1][1]
    finest = min(LEAST_WORTHWHILE, best.batch.micro_batch)
    for target, choice in good:
        extra = set(choice.rungs) - set(best.rungs) - {Rung.CUT}
        if not extra and choice.batch.micro_batch >= finest:
            return target, choice
    return good[-1]


def _planned(
    spec: RunSpec, chosen: Choice, plans: Sequence[CardPlan], every: Sequence[CardPlan]
) -> RunSpec:
    share = max(plan.share_bytes or 0 for plan in plans)
    is_open = any(not plan.fits and plan.gpu_memory_bytes >= share for plan in every)
    settings = spec.settings
    if Rung.AMP in chosen.rungs:
        settings = replace(settings, amp=chosen.job.train.precision)
    if Rung.IMGSZ in chosen.rungs:
        settings = replace(settings, imgsz=chosen.job.train.imgsz)
    options = dict(settings.options)
    if Rung.CHECKPOINTING in chosen.rungs:
        options["grad_checkpointing"] = True
    if {Rung.OPTIMIZER_8BIT, Rung.OPTIMIZER_HOST} & set(chosen.rungs):
        options["optimizer_state"] = chosen.job.train.optimizer_state.value
    if Rung.SHARD in chosen.rungs:
        options[KEY] = place_of(chosen.job.train)
    settings = replace(settings, options=options)
    return replace(
        spec,
        settings=settings,
        micro_batch=chosen.batch.micro_batch if chosen.batch.accumulation_steps > 1 else None,
        memory_bytes=spec.memory_bytes or share,
        # A card that is large enough and still does not fit (no half precision): not that one.
        gpu_types=tuple(plan.gpu for plan in plans) if is_open else spec.gpu_types,
    )


def _said(spec: RunSpec, plans: Sequence[CardPlan]) -> str:
    plan = plans[0]
    emulated = " (emulated)" if plan.is_emulated else ""
    cut = f"{plan.micro_batch} x {plan.accumulation_steps}"
    rungs = f", given up: {', '.join(plan.rungs)}" if plan.rungs else ""
    return (
        f"{_name(spec)}: batch {plan.effective_batch} as {cut} needs"
        f" {(plan.predicted_peak_bytes or 0) / 2**30:.2f} GiB on {plan.gpu}{emulated}"
        f" ({plan.confidence}){rungs}"
    )


def _name(spec: RunSpec) -> str:
    """The project, with its stage if it is one; all folds are planned alike."""
    part = spec.part
    stage = replace(part, fold=0, num_folds=0) if part else None
    return f"{spec.project} {stage}" if part and part.num_stages else spec.project


def _too_small(
    spec: RunSpec,
    facts: Facts,
    fitting: Fitting,
    nearest: tuple[Target, Choice],
    planner: Planner,
) -> PlanError:
    target, choice = nearest
    plan = planner.told(spec, choice, target, fitting)
    return PlanError(
        f"project {spec.project} fits on no card here: {plan.model} at {plan.imgsz} px on"
        f" {plan.gpu}",
        code="E2022",
        why=(plan.reason, f"the budget is {plan.budget_bytes / 2**30:.2f} GiB"),
        fix=suggestions(spec, facts, fitting, target, choice, planner)
        or ("a smaller imgsz or model, or a larger card",),
    )


def write_plan(folder: Path, fitted: Fitted) -> None:
    """Put what was predicted into the run's folder, for people and for the book.

    Raises:
        StoreError: The disk failed.
    """
    from orchestrator.store.faults import explained_disk
    from orchestrator.store.private import replace_file

    body = {"schema_version": 1, "plans": [asdict(plan) for plan in fitted.plans]}
    path = folder / PLAN_FILE
    with explained_disk(f"the file {path}"):
        replace_file(path, json.dumps(body, indent=1).encode())
