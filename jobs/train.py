"""Trains every project of a config to its end; `python -m jobs.train CONFIG key=value`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.drive import drive_or_follow
from jobs.inside import is_complete, is_in_job, place_runs, settled
from jobs.offering import offered
from orchestrator.client.access import Client
from orchestrator.client.coming import cards_to_come
from orchestrator.client.feasible import (
    cards_of_driver,
    check_on,
    machine_cards,
    ready,
)
from orchestrator.client.lines import with_followers
from orchestrator.client.planner import planner_of
from orchestrator.client.prepare import order_runs, submit_orders
from orchestrator.client.storage import demand_storage_of
from orchestrator.config.load import load_config, load_shared
from orchestrator.console import report
from orchestrator.console.say import say
from orchestrator.types import Node, RunId

__all__ = ["resume", "train"]


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
    config = place_runs(load_config(path, settled(words)))
    client = Client(home)
    cards = ready(config, client, to_driver=to_driver or is_in_job())
    known = list(cards or ())

    def admit(nodes: Sequence[Node]) -> None:
        offer = offered(config)
        types = () if offer is None else offer.node_types
        known.extend(card for node in nodes for card in node.cards)
        known.extend(cards_to_come(types))
        if known or is_complete():  # else an autoscaler may still bring the first card
            check_on([project.template for project in config.projects], nodes, types)

    def submit() -> tuple[RunId, ...]:
        orders = order_runs(
            config, client, time.time(), known or cards, lambda: planner_of(client, say)
        )
        report.prepared(orders)
        return submit_orders(orders, config, client, known)

    return drive_or_follow(client, submit, cards, config, as_json=as_json, admit=admit)


def resume(names: Sequence[str], words: Sequence[str], *, home: Path | None, as_json: bool) -> int:
    """Go on with the named runs, or with all that are unfinished; returns the exit code."""
    shared = load_shared(settled(words))
    client = Client(home)
    ids = with_followers(client, [client.find(name) for name in names]) or client.resume()
    if not ids:
        say("nothing is unfinished")
        return 0
    specs = [client.show(run_id).spec for run_id in ids]
    demand_storage_of(specs)
    if client.driver():
        cards = cards_of_driver(specs, shared, client)
    else:
        cards = machine_cards(specs, shared, last=client)

    def submit() -> tuple[RunId, ...]:
        return tuple(run_id for name in ids for run_id in client.resume(name))

    return drive_or_follow(client, submit, cards, shared, as_json=as_json)


if __name__ == "__main__":
    words = [sys.executable, "-m", "orchestrator", "train", *sys.argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the command itself: one place tells errors
