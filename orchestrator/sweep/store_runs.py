"""The runs of a sweep in a store: planned on the driver's cards, asked for, watched, ended."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.client.access import Client, new_run_id
from orchestrator.client.feasible import check_on
from orchestrator.client.fitting import kinds_of
from orchestrator.client.keys import keyed
from orchestrator.client.planner import planner_of
from orchestrator.client.plans import Planner
from orchestrator.client.prepare import Order, order_runs, submit_orders
from orchestrator.config.load import Config
from orchestrator.device.catalogue import find_card
from orchestrator.errors import ConfigError, PlanError
from orchestrator.memory.facts import CountedLabels, facts_of
from orchestrator.messages import CancelRequested, Event, ResumeRequested
from orchestrator.plan.budget import Target
from orchestrator.store.sql import SqlStore
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.ports import Judgement, Look
from orchestrator.sweep.reading import config_of
from orchestrator.sweep.rounding import RoundedLabels
from orchestrator.sweep.space import Values
from orchestrator.types import Bytes, Card, CheckpointRef, Node, RunId, RunState, RunStatus

__all__ = ["StoreRuns", "even_share", "power_watts", "trial_planner"]

_TOO_LARGE = ("E2001", "E2020", "E2022")  # no card can hold it
_MOST_PLANNED = 64  # what is judged is submitted next
_PARTS = 8
_FAR = 1.0  # a violation whose size nobody knows


class StoreRuns:
    """Implements Runs.

    Args:
        definition: Of the sweep.
        client: Of the store.
        store: The same store, open for reading.
        nodes: Where runs are trained.
        planner: Makes what predicts memory, once it is needed.
    """

    def __init__(
        self,
        definition: Definition,
        client: Client,
        store: SqlStore,
        nodes: Sequence[Node],
        planner: Callable[[], Planner],
    ) -> None:
        self._definition = definition
        self._client = client
        self._store = store
        self._nodes = nodes
        self._cards = tuple(card for node in nodes for card in node.cards)
        self._make_planner = planner
        self._planner: Planner | None = None
        self._labels = CountedLabels()  # a large data set takes seconds to read
        self._planned: dict[tuple[tuple[str, object], ...], tuple[Order, Config]] = {}

    def judge(self, settings: Values) -> Judgement:
        """Plan settings on the cards that there are; starts nothing."""
        try:
            order, _ = self._plan(settings)
        except PlanError as error:
            if error.code not in _TOO_LARGE:
                raise
            why = "; ".join((error.what, *error.why[:2]))
            return Judgement(violations={"memory": self._excess(settings)}, why=why)
        except ConfigError as error:  # right alone, wrong together: another border of the space
            return Judgement(violations={"config": _FAR}, why=error.what)
        plans = order.fitted.plans if order.fitted else ()
        return Judgement(need_bytes=plans[0].predicted_peak_bytes if plans else None)

    def submit(
        self, key: str, settings: Values, *, start: CheckpointRef | None, until: int | None
    ) -> RunId:
        """Ask for a run, durably; the same key is the same run."""
        order, config = self._plan(settings)
        run_id = new_run_id(time.time())
        spec = replace(
            order.spec,
            run_id=run_id,
            folder=str(Path(order.spec.folder).with_name(run_id)),
            start_from=start,
            until=until,
            warm=self._definition.name,
        )
        order = replace(order, spec=spec)
        orders = keyed([order], self._client, key)
        return submit_orders(orders, config, self._client, self._cards)[0]

    def look(self, runs: Mapping[RunId, int]) -> Mapping[RunId, Look]:
        """How runs stand, each with its epochs after the given one."""
        statuses = {s.run_id: s for s in self._store.statuses_of(tuple(runs))}
        return {run_id: self._one(run_id, runs[run_id], statuses.get(run_id)) for run_id in runs}

    def cancel(self, runs: Collection[RunId]) -> None:
        """End runs at once; those that have ended are left alone."""
        at = time.time()
        found = {status.run_id: status for status in self._store.statuses_of(runs)}
        self._ask(
            [
                CancelRequested(at=at, run_id=run_id, now=True)
                for run_id in runs
                if run_id not in found or not found[run_id].state.is_terminal
            ]
        )

    def revive(self, runs: Collection[RunId]) -> None:
        """Let runs go on that were cancelled; others are left alone."""
        at = time.time()
        found = self._store.statuses_of(runs)
        cancelled = [s.run_id for s in found if s.state is RunState.CANCELLED]
        self._ask([ResumeRequested(at=at, run_id=run_id) for run_id in cancelled])

    def checkpoint(self, run_id: RunId) -> CheckpointRef | None:
        """The newest checkpoint of a run."""
        return next(iter(self._store.checkpoints(run_id)), None)

    def _one(self, run_id: RunId, known: int, status: RunStatus | None) -> Look:
        if status is None:
            return Look(state=RunState.PENDING)
        # The published row is older than its epochs, and so it is read first.
        return Look(
            state=status.state,
            epochs=self._store.progress(run_id, known) if status.attempt else (),
            why=status.detail if status.state is RunState.FAILED else "",
            watts=self._watts(status) if self._definition.limits.energy else None,
        )

    def _watts(self, status: RunStatus) -> float | None:
        """The power limit of the run's card, or of its part of it: an upper bound of its draw."""
        cards = {(node.node_id, card.index): card for node in self._nodes for card in node.cards}
        total = 0.0
        for share in status.placement.shares if status.placement else ():
            card = cards.get((share.node_id, share.card or 0))
            watts = None if card is None or share.card is None else power_watts(card.name)
            if card is None or watts is None:
                return None
            total += watts * share.memory_bytes / card.memory_bytes
        return total or None

    def _ask(self, events: list[Event]) -> None:
        if events:
            self._client.ask(events)

    def _plan(self, settings: Values) -> tuple[Order, Config]:
        """The order of a run, cut to fit; within the limit of the sweep, where it has one."""
        name = _name(settings)
        if name not in self._planned:
            limit = self._definition.limits.memory_bytes
            found = self._order(settings)
            asked = found[0].spec.memory_bytes
            if limit is not None and (asked is None or asked > limit):
                found = self._order({**settings, "resources.memory": f"{limit}B"})
            order, config = found
            asked = order.spec.memory_bytes
            if asked is not None and config.projects[0].template.memory_bytes is None:
                share = even_share(asked, self._cards, limit)
                found = replace(order, spec=replace(order.spec, memory_bytes=share)), config
            check_on([found[0].spec], self._nodes)
            if len(self._planned) >= _MOST_PLANNED:
                del self._planned[next(iter(self._planned))]
            self._planned[name] = found
        return self._planned[name]

    def _order(self, settings: Values) -> tuple[Order, Config]:
        config = config_of(self._definition, settings)
        orders = order_runs(
            config, self._client, time.time(), self._cards, self._its_planner, self._labels
        )
        return orders[0], config

    def _its_planner(self) -> Planner:
        if self._planner is None:
            self._planner = self._make_planner()
        return self._planner

    def _excess(self, settings: Values) -> float:
        """By how much of the largest budget the smallest cut is too large."""
        limit = self._definition.limits.memory_bytes
        project = config_of(self._definition, settings).projects[0]
        spec = project.template
        if spec.trainer == "fake" or not project.fitting.is_predicted or project.made:
            return _FAR
        kinds = kinds_of(self._cards, spec.gpu_types)
        facts = facts_of(spec, self._labels)
        plans = [
            self._its_planner().plan(spec, facts, project.fitting, _within(kind, limit))
            for kind in kinds[-1:]
        ]
        need = [p.predicted_peak_bytes / p.budget_bytes for p in plans if p.predicted_peak_bytes]
        return max(need, default=1.0 + _FAR) - 1.0


def even_share(asked: Bytes, cards: Sequence[Card], limit: Bytes | None = None) -> Bytes:
    """A predicted share rounded up to eighths of the smallest card, where it is at most half of it.

    A worker process is kept for the next trial only where that has the same share.
    """
    step = min((card.memory_bytes for card in cards), default=0) // _PARTS
    if not step or asked > step * _PARTS // 2:
        return asked
    even = -(-asked // step) * step
    return even if limit is None else max(asked, min(even, limit))


def trial_planner(
    client: Client, note: Callable[[str], None], server: str | None = None
) -> Planner:
    """What plans the trials of sweeps: they share traces.

    Args:
        client: Of the store.
        note: Told when something is traced.
        server: Path of a fork server for it.
    """
    from orchestrator.memory.traced import TracedPredictor

    traced = TracedPredictor(client.home / "memory", note=note, server=server)
    return planner_of(client, note, RoundedLabels(traced))


def power_watts(name: str) -> float | None:
    """The board power of a card of the catalogue; None where it is not in it."""
    with suppress(ConfigError):
        return find_card(name).power_watts
    return None


def _within(kind: Target, limit: int | None) -> Target:
    return kind if limit is None else replace(kind, limit_bytes=limit)


def _name(settings: Values) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(settings.items()))
