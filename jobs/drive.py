"""Be the driver of a store: Ray, the scheduler, and what is shown, until every run has ended."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.client.access import Client
from orchestrator.client.feasible import MachineCards, check_unfinished, disk_reserve
from orchestrator.client.machine import cpu_count, free_bytes, ram_bytes
from orchestrator.client.rules import ask_rules
from orchestrator.config.load import Config
from orchestrator.console import live, report
from orchestrator.console.follow import hand_over
from orchestrator.console.stop import interruptible
from orchestrator.ports import Parts
from orchestrator.types import RunId

if TYPE_CHECKING:
    from orchestrator.cluster.disks import DiskWatch

__all__ = ["Submit", "drive_or_follow", "opened_cluster"]

Submit: TypeAlias = Callable[[], tuple[RunId, ...]]


def opened_cluster(
    stack: ExitStack,
    client: Client,
    cards: MachineCards,
    address: str | None,
    parts: Parts | None = None,
) -> "DiskWatch":
    """A Ray of this machine's own with these cards, or the one at `address`; ended with `stack`.

    `parts` are those of this machine unless others are given. Nothing new starts on it while the
    disk of the store or of the runs is nearly full.
    """
    from jobs.parts import LocalParts, list_cards
    from orchestrator.cluster.disks import DiskWatch
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.cluster.session import opened_ray

    stack.enter_context(
        opened_ray(
            cards=cards,
            address=address,
            num_cpus=cpu_count(),
            host_bytes=ram_bytes(),
            home=client.home,
        )
    )
    cluster = RayCluster(parts or LocalParts(), list_cards=list_cards, local_cards=cards)
    return DiskWatch(cluster, folders=[client.home], reserve_bytes=disk_reserve(), free=free_bytes)


def drive_or_follow(
    client: Client, submit: Submit, cards: MachineCards, shared: Config, *, as_json: bool
) -> int:
    """Be the store's driver until every run has ended, or follow the runs of the one there is.

    Args:
        client: Of the store.
        submit: Asks for the runs; called while Ray starts.
        cards: What to train on.
        shared: Says which Ray.
        as_json: How the end is told.

    Returns:
        The exit code.
    """
    if driver := client.driver():
        return hand_over(client, submit, driver, as_json=as_json)
    if cards is not None:
        check_unfinished(client, cards)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        store = stack.enter_context(client.store())
        stack.enter_context(store.drive("orc"))
        ask_rules(client, shared, time.time())
        asked = pool.submit(submit)  # data is made and asked for while Ray starts
        from orchestrator.driver import drive
        from orchestrator.schedule.standard import standard_scheduler

        cluster = opened_cluster(stack, client, cards, shared.address)
        ids = asked.result()
        view = stack.enter_context(live.view_of())
        interrupts = stack.enter_context(interruptible(client, view.note))
        scheduler = standard_scheduler()
        drive(scheduler, cluster, store, cluster, observe=live.recorder(scheduler, store, view))
    wanted = set(ids)
    runs = [run for run in client.runs() if run.id in wanted]
    report.report(runs, as_json=as_json)
    return interrupts.exit_code or report.exit_code(runs)
