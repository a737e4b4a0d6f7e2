"""Trains every project of a config to its end; `python -m jobs.train CONFIG key=value`."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

from jobs.plan import planner_of
from orchestrator.client.access import Client
from orchestrator.client.feasible import check_space, check_unfinished, cpu_count, machine_cards
from orchestrator.client.prepare import order_runs, submit_orders
from orchestrator.config.check import check_files
from orchestrator.config.load import Config, load_config, load_shared
from orchestrator.console import live, report
from orchestrator.console.follow import hand_over
from orchestrator.console.say import say
from orchestrator.console.stop import interruptible
from orchestrator.types import Card, RunId

__all__ = ["resume", "train"]

Cards: TypeAlias = tuple[Card, ...] | None  # None: those of a Ray that runs already
Submit: TypeAlias = Callable[[], tuple[RunId, ...]]


def train(
    path: Path | None,
    words: Sequence[str],
    *,
    home: Path | None,
    as_json: bool,
    to_driver: bool = False,
) -> int:
    """Check, submit and train every project of a config; returns the exit code.

    Where a driver holds the store already, that is an error, or the work goes `to_driver`: then
    the runs are followed to their end.
    """
    config = load_config(path, words)
    client = Client(home)
    cards = machine_cards([project.template for project in config.projects], config)
    check_files(config.projects)
    check_space(config.runs)
    if not to_driver:
        client.demand_no_driver()

    def submit() -> tuple[RunId, ...]:
        orders = order_runs(config, client, time.time(), cards, lambda: planner_of(client))
        report.continued(orders)
        report.fitted(orders)
        return submit_orders(orders, config, client, cards or ())

    return _drive(client, submit, cards, config, as_json=as_json)


def resume(names: Sequence[str], words: Sequence[str], *, home: Path | None, as_json: bool) -> int:
    """Go on with the named runs, or with all that are unfinished; returns the exit code."""
    shared = load_shared(words)
    client = Client(home)
    ids = [client.find(name) for name in names] or client.resume()
    if not ids:
        say("nothing is unfinished")
        return 0
    cards = machine_cards([client.show(run_id).spec for run_id in ids], shared, last=client)

    def submit() -> tuple[RunId, ...]:
        return tuple(run_id for name in ids for run_id in client.resume(name))

    return _drive(client, submit, cards, shared, as_json=as_json)


def _drive(client: Client, submit: Submit, cards: Cards, shared: Config, *, as_json: bool) -> int:
    """Be the store's driver until every run has ended, or follow the runs of the one there is."""
    if driver := client.driver():
        return hand_over(client, submit, driver, as_json=as_json)
    if cards is not None:
        check_unfinished(client, cards)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        store = stack.enter_context(client.store())
        stack.enter_context(store.drive("orc"))
        asked = pool.submit(submit)  # data is made and asked for while Ray starts
        from jobs.parts import LocalParts, list_cards
        from orchestrator.cluster.ray import RayCluster
        from orchestrator.cluster.session import opened_ray
        from orchestrator.driver import drive
        from orchestrator.memory.book import BookObserver
        from orchestrator.schedule.scheduler import Scheduler
        from orchestrator.store.folder import FolderObserver

        stack.enter_context(
            opened_ray(cards=cards, address=shared.address, num_cpus=cpu_count(), home=client.home)
        )
        ids = asked.result()
        cluster = RayCluster(LocalParts(), list_cards=list_cards, local_cards=cards)
        view = stack.enter_context(live.view_of())
        interrupts = stack.enter_context(interruptible(client, view.note))
        scheduler = Scheduler()
        observe = live.observer(
            scheduler,
            FolderObserver(),
            BookObserver(store, view.note),
            live.reasons(store),
            view.observe,
        )
        drive(scheduler, cluster, store, cluster, observe=observe)
    runs = [client.run(run_id) for run_id in ids]
    report.report(runs, as_json=as_json)
    return interrupts.exit_code or report.exit_code(runs)


if __name__ == "__main__":
    words = [sys.executable, "-m", "orchestrator", "train", *sys.argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the command itself: one place tells errors
