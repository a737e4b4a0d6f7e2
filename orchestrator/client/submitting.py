"""From a config to runs in the queue of a store, for a driver elsewhere; nothing is started."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.client.access import Client
from orchestrator.client.feasible import cards_of_driver
from orchestrator.client.keys import keyed, made_anew, remove_needless
from orchestrator.client.machine import check_space
from orchestrator.client.planner import planner_of
from orchestrator.client.prepare import Order, order_runs, submit_orders
from orchestrator.client.storage import demand_storage
from orchestrator.config.check import check_files
from orchestrator.config.load import Config, load_config
from orchestrator.types import RunId

__all__ = ["Submitted", "submit", "submit_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What was asked for: the runs, in the order of the orders that they come from."""

    ids: tuple[RunId, ...]
    orders: tuple[Order, ...]


def submit(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    key: str | None = None,
    home: str | Path | None = None,
) -> tuple[RunId, ...]:
    """Put every project of a config file into the queue; durable when this returns.

    Args:
        config: The file.
        overrides: `key=value` words over it, such as `lr0=0.02`.
        key: Asking again with the same key for the same is asking once.
        home: The folder of the store; None takes that of the environment, as `Client` does.

    Returns:
        The ids of the runs, for `Client.wait`, `Client.events`, `Client.move`.

    Raises:
        OrchestratorError: As `submit_config`, or the config is wrong.
    """
    loaded = load_config(Path(config), overrides)
    return submit_config(loaded, Client(home), key=key).ids


def submit_config(
    config: Config,
    client: Client,
    *,
    key: str | None = None,
    is_anew: bool = False,
    tell: Callable[[Sequence[Order]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Submitted:
    """Plan the projects of a config on the driver's cards, and ask for their runs.

    Args:
        config: What is asked for.
        client: Of the store.
        key: Asking again with the same key for the same is asking once.
        is_anew: Make new runs also where the same is under way already.
        tell: Called with the orders before they are asked for.
        say: Takes messages about predictions that take their time.

    Raises:
        DataError: A data set is not what its trainer needs.
        PlanError: E2001, no card of the driver (or of this machine) can ever hold a run.
        ConflictError: E5009, the key was used for something else.
        StoreError: The store or the disk failed.
    """
    templates = [project.template for project in config.projects]
    cards = cards_of_driver(templates, config, client)
    check_files(config.projects)
    check_space(config.runs)
    demand_storage(config.storage)
    heard, at = say or _unheard, time.time()
    orders = order_runs(config, client, at, cards, lambda: planner_of(client, heard))
    if key is not None:
        orders = keyed(orders, client, key)
    elif is_anew:
        orders = made_anew(orders, at)
    if tell is not None:
        tell(orders)
    ids = submit_orders(orders, config, client, cards or ())
    remove_needless(orders, ids)
    return Submitted(ids=ids, orders=orders)


def _unheard(_: str) -> None:
    pass
