"""What would fit where a run does not: a size, a precision, a model, a card; each one predicted."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from orchestrator.client.plans import Planner, ladder_of
from orchestrator.config.types import Fitting
from orchestrator.device.catalogue import CardModel, catalogue
from orchestrator.errors import OrchestratorError
from orchestrator.plan.budget import Target, budget_of
from orchestrator.plan.choose import Choice, Ladder, bare_need, need_of
from orchestrator.plan.job import Facts, job_of
from orchestrator.plan.ladder import Rung, carried_out, climbed, smaller_model
from orchestrator.plan.sharded import KEY, WHOLE, place_of
from orchestrator.plan.workload import OptimizerState
from orchestrator.types import RunSpec, Scalar

__all__ = ["model_target", "suggestions"]

_STRIDE = 32
_TRIES = 2  # traces that are worth waiting for, of each kind of suggestion


def model_target(model: CardModel) -> Target:
    """A card of the catalogue as a card to plan for; nobody else holds any of it."""
    return Target(
        name=model.name,
        memory_bytes=model.memory_bytes,
        architecture=model.architecture,
        compute_capability=model.compute_capability,
    )


def suggestions(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, choice: Choice, planner: Planner
) -> tuple[str, ...]:
    """Changes that make the run fit on the card, and the smallest card on which it fits as it is.

    Args:
        spec: What does not fit.
        facts: What its data says.
        fitting: How it may be made to fit.
        target: The card.
        choice: The nearest miss on that card.
        planner: Predicts each suggestion before it is made.
    """
    found: list[str] = []
    # Where a process that has not begun is too much already, only another card helps.
    is_hopeless = bare_need(choice.job, target, planner.scales) > choice.budget_bytes
    # A suggestion that cannot be predicted is none.
    if not is_hopeless:
        with suppress(OrchestratorError):
            found += _precision(spec, facts, fitting, target, planner)
            found += _sizes(spec, facts, fitting, target, choice, planner)
            found += _models(spec, facts, fitting, target, planner)
    with suppress(OrchestratorError):
        found += _cards(spec, facts, fitting, target, planner)
    return tuple(found)


def _fits(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, planner: Planner,
    ladder: Ladder | None = None,
) -> bool:  # fmt: skip
    """Whether a run fits at all: where it may be cut, the finest cut alone is predicted."""
    job = job_of(spec, facts, target)
    budget = budget_of(target, fitting.headroom)
    ladder = ladder or ladder_of(spec, fitting)
    if Rung.AMP in ladder.rungs:
        half = next(iter(climbed(Rung.AMP, job.train, target)), job.train)
        job = replace(job, train=half, validate=replace(job.validate, precision=half.precision))
    if Rung.CUT not in ladder.rungs:
        return planner.choose(job, target, budget, ladder).fits
    planner.warm([job], is_cut=job.rank_batch > 1)
    return need_of(job, 1, target, budget, planner.scales).fits


def _precision(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, planner: Planner
) -> Iterator[str]:
    able = carried_out(spec.trainer)
    if spec.settings.amp == "fp32" and Rung.AMP in able and Rung.AMP not in fitting.ladder.rungs:
        ladder = Ladder(rungs=(*ladder_of(spec, fitting).rungs, Rung.AMP))
        if _fits(spec, facts, fitting, target, planner, ladder):
            yield "amp=auto fits: half precision"


def _sizes(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, choice: Choice, planner: Planner
) -> Iterator[str]:
    """The largest size near what the square law of the activations says, if it really fits.

    With everything that the nearest miss gives up: a smaller picture will have to give it up, too.
    """
    size, train = spec.settings.imgsz, choice.job.train
    given: dict[str, Scalar] = {}
    if train.is_checkpointed:
        given["grad_checkpointing"] = True
    if train.optimizer_state is not OptimizerState.CARD:
        given["optimizer_state"] = train.optimizer_state.value
    if (place := place_of(train)) != WHOLE:
        given[KEY] = place
    options = {**spec.settings.options, **given}
    ratio = choice.budget_bytes / max(choice.need_bytes, 1)
    for _ in range(_TRIES):
        size = math.floor(size * math.sqrt(min(ratio, 0.95)) / _STRIDE) * _STRIDE
        if size < _STRIDE:
            return
        smaller = replace(spec, settings=replace(spec.settings, imgsz=size, options=options))
        if _fits(smaller, facts, fitting, target, planner):
            yield f"imgsz={size} fits"
            return
        ratio = 0.7


def _models(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, planner: Planner
) -> Iterator[str]:
    model = spec.settings.model
    for _ in range(_TRIES):
        smaller = smaller_model(model)
        if smaller is None:
            return
        model = smaller
        other = replace(spec, settings=replace(spec.settings, model=model))
        if _fits(other, facts, fitting, target, planner):
            yield f"model={model} fits"
            return


def _cards(
    spec: RunSpec, facts: Facts, fitting: Fitting, target: Target, planner: Planner
) -> Iterator[str]:
    """The smallest card of the catalogue on which nothing has to change."""
    free = replace(spec, memory_bytes=None)
    wanted = job_of(free, facts, replace(target, is_emulated=False)).train
    for model in sorted(catalogue(), key=lambda each: each.memory_bytes):
        card = model_target(model)
        if model.is_laptop or card.memory_bytes <= (target.limit_bytes or target.memory_bytes):
            continue
        if job_of(free, facts, card).train != wanted:
            continue  # of another kind of step: it would have to be traced first
        if _fits(free, facts, fitting, card, planner):
            yield f"a card with {model.nominal_gib:g} GB fits, such as {model.name}"
            return
