"""From a config to runs: data made on the spot, ids, folders, and no run twice."""

import platform
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from importlib import metadata
from itertools import groupby
from typing import Any

from orchestrator.client.access import Client, fingerprint, new_run_id
from orchestrator.client.cpus import cards_for, hosts_of, is_counted, with_cpus
from orchestrator.client.fitting import fit_run, kinds_of, write_plan
from orchestrator.client.plans import Planner
from orchestrator.client.ram import host_of, is_predicted, with_ram
from orchestrator.client.series import Order, bare, part_orders, projects_of, renamed
from orchestrator.client.storage import put_about
from orchestrator.config.load import Config, Project
from orchestrator.config.yaml import write_yaml
from orchestrator.errors import OrchestratorError
from orchestrator.memory.facts import CountedLabels, facts_of
from orchestrator.plan.job import Facts, job_of
from orchestrator.types import Card, DeviceKind, RunId, RunSpec

__all__ = ["Order", "order_runs", "submit_orders"]

_LIBRARIES = ("orchestrator", "ray", "torch", "torchvision", "ultralytics", "timm", "numpy")


def order_runs(
    config: Config,
    client: Client,
    at: float,
    cards: Sequence[Card] | None = None,
    planner: Callable[[], Planner] | None = None,
    labels: CountedLabels | None = None,
) -> tuple[Order, ...]:
    """Make the data that is made on the spot, find what is already under way, plan the rest.

    Args:
        config: What is asked for.
        client: The store.
        at: Unix time.
        cards: Where the runs may be put; None where they are not known yet.
        planner: Makes what plans their memory, if there is anything to plan; None plans nothing.
        labels: Those that were read before; None reads them.

    Raises:
        ConfigError: A made data set is unknown, or what it needs is not installed.
        PlanError: E2022, a run fits on none of the cards; E2020, nothing of them is free.
        StoreError: The store failed.
        DataError: A data set is not what its trainer needs.
    """
    projects = projects_of(config)
    orders = tuple(each for stages in projects for each in _orders(stages, config, client, at))
    facts = _Facts(labels)
    wanted = [order for order in orders if cards and planner and _is_planned(order)]
    if wanted and planner is not None:
        plans = planner()
        where = {o.spec.run_id: cards_for(o.spec, client, cards or ()) for o in wanted}
        with suppress(OrchestratorError):  # each run says by itself what is wrong with it
            plans.warm(
                [
                    job_of(order.spec, facts.of(order), kind)
                    for order in wanted
                    for kind in kinds_of(where[order.spec.run_id], order.spec.gpu_types)
                ]
            )
        fitted = {
            order.spec.run_id: _fitted(order, facts.of(order), where[order.spec.run_id], plans)
            for order in wanted
        }
        orders = tuple(fitted.get(order.spec.run_id, order) for order in orders)
    if any(map(is_counted, orders)):
        hosts = hosts_of(client, cards or ())
        orders = tuple(with_cpus(order, hosts) for order in orders)
    if not any(map(is_predicted, orders)):
        return orders
    host = host_of(client)
    return tuple(with_ram(order, host, partial(facts.of, order)) for order in orders)


class _Facts:
    """What data sets say; folds of one data set have that of the whole set."""

    def __init__(self, labels: CountedLabels | None) -> None:
        self._known: dict[str, Facts] = {}
        self._labels = labels

    def of(self, order: Order) -> Facts:
        """What the data set of an order says, read once."""
        label = order.project.label
        if label not in self._known:
            self._known[label] = facts_of(_on_all_data(order), self._labels)
        return self._known[label]


def _is_planned(order: Order) -> bool:
    spec = order.spec
    is_trained_here = spec.device is DeviceKind.GPU and spec.trainer != "fake"
    return order.continues is None and is_trained_here and order.project.fitting.is_predicted


def _on_all_data(order: Order) -> RunSpec:
    if order.data is None:
        return order.spec
    return replace(order.spec, settings=replace(order.spec.settings, data=order.data))


def _fitted(order: Order, facts: Facts, cards: Sequence[Card], planner: Planner) -> Order:
    spec, fitting = order.spec, order.project.fitting
    fitted = fit_run(spec, facts, fitting, kinds_of(cards, spec.gpu_types), planner)
    asked = fingerprint(bare(spec))
    return replace(order, spec=replace(fitted.spec, asked=asked), fitted=fitted)


def _orders(
    stages: Sequence[Project], config: Config, client: Client, at: float
) -> tuple[Order, ...]:
    project = stages[0]

    def data(stage: Project) -> str | None:
        if stage.made is None:
            return None
        from orchestrator.demo import make

        return str(make(stage.made, client.home / "made"))

    if project.stage is not None or project.folds is not None:
        return part_orders(stages, config, client, at, data)
    run_id = new_run_id(at)
    spec = project.spec(run_id, config.runs / project.name / run_id, data(project))
    continues, key = client.unfinished_like(spec)
    return (Order(spec=spec, project=project, key=key, continues=continues),)


def submit_orders(
    orders: Sequence[Order], config: Config, client: Client, cards: Sequence[Card]
) -> tuple[RunId, ...]:
    """Make the folders of new runs and ask for them; returns every order's run, the old ones too.

    A stage is asked for once its predecessor is, and comes after the run that the store answered:
    where two ask for one series at a time, each of its runs is the one that was asked for first.

    Raises:
        StoreError: The store or the disk failed.
    """
    fresh = [order for order in orders if order.continues is None]
    for order in fresh:
        _make_folder(order, config, cards)
    answers: dict[RunId, RunId] = {}
    for _, stage in groupby(sorted(fresh, key=_stage), key=_stage):
        wave = tuple(stage)
        specs = [renamed(order.spec, answers) for order in wave]
        asked = client.submit(specs, [order.key for order in wave])
        answers.update(zip((order.spec.run_id for order in wave), asked, strict=True))
    return tuple(answers.get(order.spec.run_id, order.run_id) for order in orders)


def _stage(order: Order) -> int:
    return order.spec.part.stage if order.spec.part else 0


def _make_folder(order: Order, config: Config, cards: Sequence[Card]) -> None:
    from orchestrator.store.folder import create_run_folder, write_config, write_environment

    folder = create_run_folder(config.runs, order.spec.project, order.spec.run_id)
    write_config(folder, write_yaml(_resolved(order, config)))
    write_environment(folder, _facts(cards))
    if order.fitted is not None and order.fitted.plans:
        write_plan(folder, order.fitted)
    if order.spec.storage:
        put_about(order.spec, folder)


def _resolved(order: Order, config: Config) -> dict[str, Any]:
    """The config file that trains this run alone again."""
    cluster = {"cluster": {"emulate": list(config.emulate)}} if config.emulate else {}
    block = dict(order.project.resolved)
    if order.project.made is None:
        block["data"] = order.data or order.spec.settings.data
    return {**cluster, "runs": config.runs_as_written, "projects": [block]}


def _facts(cards: Sequence[Card]) -> dict[str, Any]:
    """What made the result: versions, machine, cards."""
    return {
        "schema_version": 1,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "versions": dict(_versions()),
        "cards": [asdict(card) for card in cards],
    }


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Of the libraries that are installed, as they were at the first run of this process."""
    versions = []
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions.append((name, metadata.version(name)))
    return tuple(versions)
