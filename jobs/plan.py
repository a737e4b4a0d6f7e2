"""Plans, recommends, shows what was measured: `orc plan`, `orc recommend`, `orc memory book`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.client import survey
from orchestrator.client.access import Client
from orchestrator.client.cpus import counted, hosts_of
from orchestrator.client.measured import findings_of, forget_findings
from orchestrator.client.planner import planner_of
from orchestrator.client.plans import CardPlan
from orchestrator.client.storage import demand_storage, storage_told
from orchestrator.client.targets import Cards, targets_of
from orchestrator.client.together import together
from orchestrator.config.check import check_files
from orchestrator.config.load import Config, load_config, load_shared
from orchestrator.console import plan as console
from orchestrator.console.choices import show_findings
from orchestrator.console.say import say
from orchestrator.device.catalogue import emulated_cards
from orchestrator.device.nvml import survey as nvml_cards
from orchestrator.memory.predict import Predictor
from orchestrator.selectors import admits, selector_text
from orchestrator.types import Card, Node

__all__ = ["Cards", "book", "choices", "cpus_told", "labels_told", "plan", "recommend"]


def plan(  # noqa: PLR0913 - the options of a command
    path: Path | None,
    words: Sequence[str],
    cards: Cards,
    *,
    home: Path | None,
    as_json: bool,
    verbose: bool = False,
    is_inference: bool = False,
    write: Path | None = None,
    force: bool = False,
    predictor: Predictor | None = None,
) -> int:
    """Plan every project of a config on the cards that were asked about; returns the exit code."""
    config = load_config(path, words)
    targets, remark = targets_of(cards, config)
    if write is not None:
        survey.demand_writable(write, targets, force=force)
    check_files(config.projects)
    demand_storage(config.storage)
    client = Client(home)
    where = storage_told(config.storage)
    for line in filter(None, (remark, where, *survey.check_splits(config, client))):
        say(line)
    few = len(targets) <= 4 or verbose
    planner = planner_of(client, say, predictor, has_parts=few and not is_inference)
    if is_inference:
        rows = survey.inference(config, targets, planner, client)
        return console.show_inference(rows, as_json=as_json)
    plans = survey.survey(config, targets, planner, client)
    if write is not None:
        survey.write_config(write, config, plans)
        say(f"wrote {write}")
    for line in labels_told(config, client.nodes() if client.driver() else ()):
        say(line)
    if any(project.fitting.is_cpus_auto for project in config.projects):
        for line in cpus_told(config, plans, hosts_of(client, _cards(config))):
            say(line)
    shared = together(config, plans, targets)
    return console.show_plans(plans, shared, as_json=as_json, verbose=verbose)


def labels_told(config: Config, nodes: Sequence[Node]) -> list[str]:
    """On which nodes the projects may be that ask for labels, a line each.

    Args:
        config: The projects.
        nodes: Of the driver that runs; none where there is no driver.
    """
    told = []
    for project in config.projects:
        selector = tuple(project.template.labels.items())
        if selector:
            line = f"{project.label}: only on nodes with {selector_text(selector)}"
            if nodes:
                num = sum(admits(selector, node.labels) for node in nodes)
                line += f", which are {num} of the {len(nodes)} that the driver has"
            told.append(line)
    return told


def cpus_told(config: Config, plans: Sequence[CardPlan], hosts: Sequence[Node]) -> list[str]:
    """How many CPUs the projects count that leave it to the product, a line each."""
    told = []
    for project in config.projects:
        if project.fitting.is_cpus_auto:
            own = [plan for plan in plans if plan.name == project.label and plan.fits]
            shares = [plan.share_bytes for plan in own if plan.share_bytes]
            spec = replace(
                project.template,
                memory_bytes=project.template.memory_bytes or max(shares, default=None),
            )
            told.append(f"{project.label}: {counted(spec, hosts)[1]}")
    return told


def _cards(config: Config) -> tuple[Card, ...]:
    """Of this machine: emulated ones where they are asked for, else those that are there."""
    if config.emulate:
        return emulated_cards(config.emulate)
    return tuple(nvml_cards()[0])


def recommend(
    path: Path | None,
    words: Sequence[str],
    cards: Cards,
    *,
    home: Path | None,
    as_json: bool,
    predictor: Predictor | None = None,
) -> int:
    """Recommend settings for cards, and for a config's projects on them; returns the exit code."""
    is_alone = path is None and all(word.startswith("cluster.") for word in words)
    config = None if is_alone else load_config(path, words)
    targets, remark = targets_of(cards, config or load_shared(words))
    client = Client(home)
    if config is not None:
        check_files(config.projects)
    if remark:
        say(remark)
    planner = planner_of(client, say, predictor)
    console.show_advice(survey.advise(config, targets, planner, client), as_json=as_json)
    return 0


def book(*, home: Path | None, as_json: bool) -> int:
    """Show the measured peaks."""
    console.show_book(survey.book_of(Client(home)), as_json=as_json)
    return 0


def choices(*, forget: str | None, home: Path | None, as_json: bool) -> int:
    """Show the settings that runs have tried, after those of a model were forgotten."""
    client = Client(home)
    if forget is not None:
        say(f"{forget}: forgot {forget_findings(client, forget)} setting(s)")
    show_findings(findings_of(client), as_json=as_json)
    return 0
