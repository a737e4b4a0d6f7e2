"""Be the driver of a store: Ray, the scheduler, and what is shown, until every run has ended."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

from jobs.inside import is_in_job
from jobs.offering import offered
from orchestrator.client.access import Client
from orchestrator.client.feasible import MachineCards, check_unfinished
from orchestrator.client.machine import cpu_count, disk_reserve, free_bytes, ram_bytes
from orchestrator.client.rules import ask_rules
from orchestrator.config.load import Config
from orchestrator.console import live, report
from orchestrator.console.cluster import warn_open
from orchestrator.console.follow import DRIVER_LOST, hand_over
from orchestrator.console.say import say
from orchestrator.console.stop import interruptible
from orchestrator.errors import StoreError
from orchestrator.messages import NodeTypesOffered
from orchestrator.ports import Parts
from orchestrator.types import Node, RunId, Seconds

if TYPE_CHECKING:
    from orchestrator.cluster.disks import DiskWatch
    from orchestrator.cluster.spares import Expected

__all__ = ["Admit", "Submit", "drive_or_follow", "joined_nodes", "opened_cluster"]

Submit: TypeAlias = Callable[[], tuple[RunId, ...]]
Admit: TypeAlias = Callable[[Sequence[Node]], None]

_NODES_SECONDS: Seconds = 30.0  # for every node of a Ray that is joined to list its cards


def opened_cluster(  # noqa: PLR0913 - the one place where a cluster is made
    stack: ExitStack,
    client: Client,
    cards: MachineCards,
    address: str | None,
    parts: Parts | None = None,
    offer: NodeTypesOffered | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    expected: "Expected | None" = None,
) -> "DiskWatch":
    """A Ray of this machine's own with these cards, or the one at `address`; ended with `stack`.

    `parts` are those of this machine unless others are given; nodes of an `offer` are asked for as
    they are needed; `labels` are those of this machine's own node, where processes are made for
    runs that are `expected`. Nothing new starts on it while the disk of the store or of the runs is
    nearly full.
    """
    from jobs.parts import LocalParts, list_cards
    from orchestrator.cluster.disks import DiskWatch, TimedCluster
    from orchestrator.cluster.ray import RayCluster
    from orchestrator.cluster.session import opened_ray

    stack.enter_context(
        opened_ray(
            cards=cards,
            address=address,
            num_cpus=cpu_count(),
            host_bytes=ram_bytes(),
            home=client.home,
            labels=labels,
        )
    )
    if cards is None and os.environ.get("RAY_AUTH_MODE") == "disabled" and not is_in_job():
        warn_open(address or "auto")  # of a job its submitter is warned
    cluster: TimedCluster = RayCluster(
        parts or LocalParts(), list_cards=list_cards, local_cards=cards, expected=expected
    )
    if offer is not None:
        from orchestrator.cluster.scaling import ScaledCluster

        scaled = ScaledCluster(cluster, offer)
        stack.callback(scaled.close)
        cluster = scaled
    return DiskWatch(cluster, folders=[client.home], reserve_bytes=disk_reserve(), free=free_bytes)


def drive_or_follow(
    client: Client,
    submit: Submit,
    cards: MachineCards,
    shared: Config,
    *,
    as_json: bool,
    admit: Admit | None = None,
) -> int:
    """Be the store's driver until every run has ended, or follow the runs of the one there is.

    Args:
        client: Of the store.
        submit: Asks for the runs; called while a Ray of our own starts, or once one is joined.
        cards: What to train on.
        shared: Says which Ray.
        as_json: How the end is told.
        admit: Looks at the nodes of a Ray that is joined before anything is asked for.

    Returns:
        The exit code.
    """
    if shared.address is not None:
        cards = None  # those that a driver has now were good for planning; the Ray tells its own
    if driver := client.driver():
        return _follow(client, submit, driver, cards, shared, as_json=as_json)
    if cards is not None:
        check_unfinished(client, cards, shared.labels)
    try:
        return _drive(client, submit, cards, shared, as_json=as_json, admit=admit)
    except StoreError as error:
        driver = client.driver()
        if error.code != "E5006" or driver is None or not is_in_job():
            raise
        return _follow(client, submit, driver, cards, shared, as_json=as_json)  # it was first


def _drive(
    client: Client,
    submit: Submit,
    cards: MachineCards,
    shared: Config,
    *,
    as_json: bool,
    admit: Admit | None,
) -> int:
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        store = stack.enter_context(client.store())
        stack.enter_context(store.drive("orc"))
        ask_rules(client, shared, time.time())
        is_joined = cards is None
        asked = None if is_joined else pool.submit(submit)  # data is made while Ray starts
        from orchestrator.driver import drive
        from orchestrator.schedule.standard import standard_scheduler

        offer = offered(shared)
        cluster = opened_cluster(
            stack, client, cards, shared.address, offer=offer, labels=shared.labels
        )
        if is_joined and admit is not None:
            admit(joined_nodes())
        ids = submit() if asked is None else asked.result()
        view = stack.enter_context(live.view_of())
        interrupts = stack.enter_context(
            interruptible(client, view.note, is_service=True, ids=ids)
            if is_in_job()
            else interruptible(client, view.note)
        )
        scheduler = standard_scheduler()
        drive(scheduler, cluster, store, cluster, observe=live.recorder(scheduler, store, view))
    return interrupts.exit_code or _reported(client, ids, as_json=as_json)


def _follow(
    client: Client,
    submit: Submit,
    driver: str,
    cards: MachineCards,
    shared: Config,
    *,
    as_json: bool,
) -> int:
    """Follow runs that another driver trains; a job goes on as the driver when that one leaves."""
    if not is_in_job():
        return hand_over(client, submit, driver, as_json=as_json)
    ids = submit()
    with interruptible(client, say, ids=ids) as interrupts:
        code = hand_over(client, lambda: ids, driver, as_json=as_json)
    if code != DRIVER_LOST or interrupts.exit_code:
        return interrupts.exit_code or code
    say("this job goes on as their driver")
    return drive_or_follow(client, lambda: ids, cards, shared, as_json=as_json)


def joined_nodes() -> tuple[Node, ...]:
    """The nodes of the Ray that was joined, with their cards."""
    from jobs.parts import list_cards
    from orchestrator.cluster.nodes import nodes_now

    return nodes_now(list_cards, _NODES_SECONDS)


def _reported(client: Client, ids: Sequence[RunId], *, as_json: bool) -> int:
    wanted = set(ids)
    runs = [run for run in client.runs() if run.id in wanted]
    report.report(runs, as_json=as_json)
    return report.exit_code(runs)
