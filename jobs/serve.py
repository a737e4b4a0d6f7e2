"""Be the driver of a store for as long as it is wanted; `python -m jobs.serve --address auto`."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from jobs.drive import opened_cluster
from jobs.inside import settled
from jobs.offering import offered
from orchestrator.client.access import Client
from orchestrator.client.feasible import MachineCards, service_cards
from orchestrator.client.rules import ask_rules
from orchestrator.config.load import load_shared
from orchestrator.console import live
from orchestrator.console.lasting import outliving_terminal
from orchestrator.console.lines import LinesView
from orchestrator.console.say import say
from orchestrator.console.service import log_path
from orchestrator.console.stop import interruptible
from orchestrator.messages import NodeTypesOffered
from orchestrator.ports import Parts

__all__ = ["serve", "serve_store"]


def serve(words: Sequence[str], *, home: Path | None, expected: str | None = None) -> int:
    """Drive a store in the foreground until somebody asks to leave; returns the exit code.

    Args:
        words: `cluster.emulate=[...]` or `cluster.address=...`; by default this machine's GPUs.
        home: The folder of the store.
        expected: `TRAINER:COUNT` of runs that will come soon.

    Raises:
        StoreError: E5006, another driver holds the store.
        ClusterError: Ray cannot be used.
    """
    shared = load_shared(settled(words))
    client = Client(home)
    client.demand_no_driver()
    cards = service_cards(shared)
    if cards == ():
        say("there is no GPU here: only runs with device: cpu can be trained")
    ask_rules(client, shared, time.time())
    return serve_store(
        client,
        cards,
        shared.address,
        offer=offered(shared),
        labels=shared.labels,
        expected=expected,
    )


def serve_store(
    client: Client,
    cards: MachineCards,
    address: str | None = None,
    parts: Parts | None = None,
    offer: NodeTypesOffered | None = None,
    labels: Mapping[str, str] | None = None,
    expected: str | None = None,
) -> int:
    """Drive a store with these cards, or with the Ray at `address`; returns the exit code.

    Nodes of an `offer` are asked for as they are needed; `labels` are those of a node of our own.
    """
    from orchestrator.cluster.spares import Expected
    from orchestrator.driver import drive
    from orchestrator.schedule.standard import standard_scheduler

    with outliving_terminal(log_path(client)):
        with ExitStack() as stack:
            store = stack.enter_context(client.store())
            stack.enter_context(store.drive("orc serve"))
            trainer, _, count = (expected or "").partition(":")
            soon = Expected(trainer, int(count)) if count.isdigit() else None
            cluster = opened_cluster(
                stack, client, cards, address, parts, offer, labels, expected=soon
            )
            view = stack.enter_context(LinesView(sys.stderr))
            interrupts = stack.enter_context(interruptible(client, view.note, is_service=True))
            scheduler = standard_scheduler()
            observe = live.recorder(scheduler, store, view)
            say(f"driving {client.name}; asks are taken as they come (orc submit CONFIG)")
            drive(scheduler, cluster, store, cluster, observe=observe, keep_alive=True)
        num_left = len(client.queue())
        say(f"the driver has left; {num_left} unfinished run(s) go on with the next one")
    return 130 if interrupts.exit_code == 130 else 0


if __name__ == "__main__":
    words = [sys.executable, "-m", "orchestrator", "serve", *sys.argv[1:]]
    os.execv(sys.executable, words)  # noqa: S606 - the command itself: one place tells errors
