"""Planning before there is a driver: models are traced, and the space is looked at, meanwhile."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from orchestrator.client.access import Client
from orchestrator.client.feasible import check_on, service_cards
from orchestrator.client.machine import cpu_count, ram_bytes
from orchestrator.client.plans import Planner
from orchestrator.errors import OrchestratorError
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.judging import judging
from orchestrator.sweep.ports import Runs
from orchestrator.sweep.reading import config_of
from orchestrator.sweep.space import sample
from orchestrator.sweep.store_runs import StoreRuns
from orchestrator.types import Card, Node, NodeId, Seconds

__all__ = ["Ahead", "survey"]

_PROBES = 12  # suggestions by chance that are planned before anything starts
_LEAST_PROBES = 4
_PROBE_SECONDS: Seconds = 15.0
_MOSTLY = 0.5


class Ahead:
    """Looks at a sweep's space on the cards that a driver started here is going to have.

    Tracing a model takes about as long as a Ray needs to start, and neither needs the other. What
    is found wrong is not told: whoever plans on the real cards finds it again, without tracing.

    Args:
        definition: Of the sweep.
        client: Of the store.
        store: The same store, open for reading.
        planner: What plans; nobody else may ask it until `joined`.
    """

    def __init__(
        self,
        definition: Definition,
        client: Client,
        store: SqlStore,
        planner: Callable[[], Planner],
    ) -> None:
        self._definition = definition
        self._client = client
        self._store = store
        self._planner = planner
        self._cards: tuple[Card, ...] = ()
        self._said: list[str] = []
        self._is_whole = False
        # A daemon: who leaves before the driver is up does not wait for a trace.
        self._thread = Thread(target=self._look, name="orc-plan-ahead", daemon=True)
        self._thread.start()

    def joined(self, runs: Runs, cards: tuple[Card, ...], said: Callable[[str], None]) -> None:
        """Wait for the look, and tell what came of it; on other cards than foreseen look again."""
        self._thread.join()
        if not self._is_whole or cards != self._cards:
            survey(self._definition, runs, said)
            return
        for text in self._said:
            said(text)

    def _look(self) -> None:
        with suppress(OrchestratorError):
            self._cards = service_cards(config_of(self._definition, {})) or ()
            if not self._cards:
                return
            node = Node(
                node_id=NodeId("this-machine"),
                cards=self._cards,
                num_cpus=cpu_count(),
                host_bytes=ram_bytes(),
            )
            check_on([], [node])  # its imports, while somebody else gets ready to trace
            runs = StoreRuns(self._definition, self._client, self._store, [node], self._planner)
            survey(self._definition, runs, self._said.append)
            self._is_whole = True


def survey(definition: Definition, runs: Runs, said: Callable[[str], None]) -> float:
    """Plan a few suggestions by chance, and say so where most of them cannot run.

    Returns:
        The share that cannot.
    """
    whys: list[str] = []
    num_looked, until = 0, time.monotonic() + _PROBE_SECONDS
    judge = judging(definition, runs)
    for number in range(_PROBES):
        if time.monotonic() > until and num_looked >= _LEAST_PROBES:
            break  # tracing a model takes seconds
        num_looked += 1
        chance = random.Random(f"{definition.seed}/{number}/survey")
        found = judge(sample(definition.space, chance))
        if not found.fits:
            whys.append(found.why)
    share = len(whys) / num_looked
    if share >= _MOSTLY:
        said(
            f"about {share:.0%} of the space cannot run here ({len(whys)} of {num_looked} looked"
            f" at); for example: {whys[0]}"
        )
    return share
