"""Every project of a config on every card that is asked about: plans, inference, advice, a file."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.client.access import Client
from orchestrator.client.folds import check_folds
from orchestrator.client.machine import cpu_count
from orchestrator.client.measured import findings_of, holding
from orchestrator.client.plans import CardPlan, Planner, ladder_of
from orchestrator.client.series import projects_of
from orchestrator.client.suggest import suggestions
from orchestrator.config.load import Config, Project
from orchestrator.config.yaml import write_yaml
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.memory.facts import facts_of
from orchestrator.memory.predict import is_unpredictable
from orchestrator.plan.budget import Target, budget_of
from orchestrator.plan.choose import Choice, infer_batch
from orchestrator.plan.correct import Peak
from orchestrator.plan.job import Facts, job_of
from orchestrator.plan.recommend import Advice, Machine, recommend
from orchestrator.types import DeviceKind, RunId, RunSpec

__all__ = [
    "advise",
    "book_of",
    "check_splits",
    "demand_writable",
    "inference",
    "project_facts",
    "survey",
    "write_config",
]

_FEW = 3  # cards for which changes that would fit are looked for
_MOST_INFERENCE = 1024  # samples beyond which a batch gains nothing


def book_of(client: Client) -> tuple[Peak, ...]:
    """The measured peaks of a store; none where there is no store yet."""
    if not client.is_there:
        return ()
    with client.store() as store:
        return store.peaks()


def project_facts(project: Project, client: Client) -> tuple[RunSpec, Facts]:
    """A project as a run that could be submitted, with what its data says; made data is made."""
    spec = project.spec(RunId("plan"), Path(), _made(project, client))
    return spec, facts_of(spec)


def _made(project: Project, client: Client) -> str | None:
    if project.made is None:
        return None
    from orchestrator.demo import make

    return str(make(project.made, client.home / "made"))


def _on_cards(config: Config) -> list[Project]:
    return [
        project
        for project in config.projects
        if project.template.device is DeviceKind.GPU and project.template.trainer != "fake"
    ]


def survey(
    config: Config, targets: Sequence[Target], planner: Planner, client: Client
) -> list[CardPlan]:
    """Plan every project that trains on cards; the rest has no limit to plan with.

    Where few cards are asked about, a plan that does not fit says what would.

    Raises:
        PlanError: Nothing of a card is left to plan with, or a micro-batch is wrong.
        DataError: A data set is not what its trainer needs.
    """
    plans = []
    known = [(project, *project_facts(project, client)) for project in _on_cards(config)]
    with suppress(OrchestratorError):  # each plan says by itself what is wrong with it
        planner.warm([job_of(spec, facts, t) for _, spec, facts in known for t in targets])
    for project, spec, facts in known:
        for target in targets:
            plan = planner.plan(spec, facts, project.fitting, target)
            if plan.fits is False and len(targets) <= _FEW:
                plan = _with_remedies(plan, spec, facts, project, target, planner)
            plans.append(_told_of(plan, project))
    return plans


def check_splits(config: Config, client: Client) -> list[str]:
    """What should be known about the folds of the projects; raises as `folds.check_folds`."""
    remarks = []
    for project, *_ in projects_of(config):
        if project.folds is not None:
            spec = project.spec(RunId("plan"), Path(), _made(project, client))
            found = check_folds(spec, project.folds)
            remarks += [f"{project.name}: {remark}" for remark in found]
    return remarks


def _told_of(plan: CardPlan, project: Project) -> CardPlan:
    stage = project.stage
    return replace(
        plan,
        stage=f"{stage.number}/{stage.count} {stage.name}" if stage else "",
        num_folds=project.folds.k if project.folds else 0,
    )


def _with_remedies(
    plan: CardPlan, spec: RunSpec, facts: Facts, project: Project, target: Target, planner: Planner
) -> CardPlan:
    choice = _choice(spec, facts, project, target, planner)
    found = suggestions(spec, facts, project.fitting, target, choice, planner)
    return replace(plan, remedies=found)


def _choice(
    spec: RunSpec, facts: Facts, project: Project, target: Target, planner: Planner
) -> Choice:
    job = job_of(spec, facts, target)
    budget = budget_of(target, project.fitting.headroom)
    return planner.choose(job, target, budget, ladder_of(spec, project.fitting))


def inference(
    config: Config, targets: Sequence[Target], planner: Planner, client: Client
) -> list[dict[str, Any]]:
    """The largest inference batch of every project on every card, up to 1024; 0 where none fits."""
    rows = []
    for project in _on_cards(config):
        spec, facts = project_facts(project, client)
        for target in targets:
            job = job_of(spec, facts, target)
            budget = budget_of(target, project.fitting.headroom)
            batch, need = infer_batch(
                job.train, target, budget, planner.scales, most=_MOST_INFERENCE
            )
            rows.append(
                {
                    "project": project.label,
                    "model": spec.settings.model,
                    "imgsz": spec.settings.imgsz,
                    "gpu": target.name,
                    "precision": job.train.precision,
                    "batch": batch,
                    "predicted_peak_bytes": need,
                    "budget_bytes": budget,
                    "confidence": "predicted",
                }
            )
    return rows


def advise(
    config: Config | None, targets: Sequence[Target], planner: Planner, client: Client
) -> dict[str, Sequence[Advice]]:
    """Recommended settings by card, or by project and card where there is a config."""
    machine = _machine()
    if config is None:
        return {target.name: recommend(target, machine) for target in targets}
    found: dict[str, Sequence[Advice]] = {}
    findings = findings_of(client)
    for project in _on_cards(config):
        spec, facts = project_facts(project, client)
        for target in targets:
            choice = None
            try:
                choice = _choice(spec, facts, project, target, planner)
            except OrchestratorError as error:
                if not is_unpredictable(error):
                    raise
            found[f"{project.label} on {target.name}"] = recommend(
                target,
                machine,
                spec=spec,
                choice=choice,
                num_images=facts.num_images,
                findings=holding(findings, spec, choice, target, machine.num_cpus)
                if choice
                else (),
            )
    return found


def _machine() -> Machine:
    pages = os.sysconf("SC_AVPHYS_PAGES") if hasattr(os, "sysconf") else 0
    free = pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else 0
    return Machine(num_cpus=cpu_count(), free_ram_bytes=free, platform=sys.platform)


def demand_writable(path: Path, targets: Sequence[Target], *, force: bool) -> None:
    """Refuse to plan for a file that could not be written.

    Raises:
        ConfigError: E1062, several cards; E1063, the file is there and `force` was not said.
    """
    if len(targets) != 1:
        raise _no_one_plan(f"{len(targets)} cards were asked about")
    if path.exists() and not force:
        raise ConfigError(
            f"{path} exists", code="E1063", fix=("choose another name, or say --force",)
        )


def _no_one_plan(why: str) -> ConfigError:
    return ConfigError(
        "there is no one plan to write",
        code="E1062",
        why=(why,),
        fix=("--gpu NAME of one card on which every project fits",),
    )


def write_config(path: Path, config: Config, plans: Sequence[CardPlan]) -> None:
    """Write a config that trains as planned on the one card that was asked about.

    Raises:
        ConfigError: E1062, a project does not fit.
    """
    if unfit := [plan.name for plan in plans if not plan.fits]:
        raise _no_one_plan(f"{', '.join(unfit)} does not fit")
    by_name = {plan.name: plan for plan in plans}
    blocks = [_block(stages, by_name) for stages in projects_of(config)]
    cluster = {"cluster": {"emulate": list(config.emulate)}} if config.emulate else {}
    card = plans[0].gpu if plans else "no card"
    head = f"# Planned for {card}: as predicted, nothing was trained for it.\n"
    body = {**cluster, "runs": config.runs_as_written, "projects": blocks}
    path.write_text(head + write_yaml(body), "utf-8")


def _block(stages: Sequence[Project], plans: Mapping[str, CardPlan]) -> dict[str, Any]:
    block = dict(stages[0].resolved)
    planned = [_as_planned(plans.get(stage.label)) for stage in stages]
    if stages[0].stage is None:
        return block | planned[0]
    each = zip(block["stages"], planned, strict=True)
    return block | {"stages": [{**stage, **own} for stage, own in each]}


def _as_planned(plan: CardPlan | None) -> dict[str, Any]:
    """The keys by which a run trains as planned."""
    if plan is None:
        return {}
    keys: dict[str, Any] = {"micro_batch": plan.micro_batch}
    if "amp" in plan.rungs:
        keys["amp"] = plan.precision
    if "imgsz" in plan.rungs:
        keys["imgsz"] = plan.imgsz
    return keys
