"""Which cards have room for a run where it may be, and why it waits when that is not enough."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.schedule.asks import Ask, Route, Router, is_kind
from orchestrator.schedule.cards import Pool
from orchestrator.schedule.ledger import Ledger
from orchestrator.types import Bytes, PendingReason

__all__ = ["card_available", "cards_reason"]


def cards_reason(ask: Ask, router: Router, ledger: Ledger) -> PendingReason:
    """The token of a run whose cards are not to be had now, although they are there."""
    reason = _reason(ask, router.route(ask), ledger)
    if ask.labels and reason is not PendingReason.WAITING_FOR_CPU_OR_RAM:
        anywhere = replace(ask, labels=())
        if _is_there_room(anywhere, router.route(anywhere), ledger):
            return PendingReason.EXCLUDED_BY_LABELS
    return reason


def _reason(ask: Ask, route: Route, ledger: Ledger) -> PendingReason:
    fitting = {pool: _num_fitting(ask, pool, ledger) for pool in route.pools}
    aside = [
        card
        for card in ledger.aside.values()
        if card.pool in fitting and not card.users and card.node.admits(ask.labels)
    ]
    fragmented = PendingReason.SET_ASIDE if aside else PendingReason.FRAGMENTED
    most = _most(route, fitting)
    if most >= ask.num_workers:
        if ask.num_workers > 1 and not _is_in_one_place(ask, route, ledger):
            return fragmented
        is_counted = ask.is_host_counted
        return PendingReason.WAITING_FOR_CPU_OR_RAM if is_counted else PendingReason.WAITING_FOR_GPU
    foreign = [
        card
        for card in ledger.foreign.values()
        if card.pool in fitting and not card.users and not card.has_room(ask.size)
        if card.node.admits(ask.labels)
    ]
    if most + len(foreign) >= ask.num_workers and foreign:
        return PendingReason.EXTERNAL_PROCESS
    if most + len(aside) >= ask.num_workers and aside:
        return PendingReason.SET_ASIDE
    if sum(fitting.values()) >= ask.num_workers:
        return fragmented
    return PendingReason.WAITING_FOR_GPU


def card_available(ask: Ask, ledger: Ledger) -> Iterator[str]:
    """One line a kind of card: how many there are, and with room for a worker."""
    for _, pool in sorted(ledger.pools.items()):
        total = sum(pool.num_cards.values())
        line = f"{pool.name} {_size(pool.memory_bytes)}: {total} total"
        if ask.gpu_types and not any(is_kind(wanted, pool.name) for wanted in ask.gpu_types):
            line += " (excluded by gpu_type)"
        elif pool.memory_bytes <= ask.over_bytes or (ask.size or 0) > pool.memory_bytes:
            line += " (too small)"
        else:
            if ask.labels:
                line += f", {_num_admitted(ask, pool, ledger)} on nodes with its labels"
            line += f", {_num_fitting(ask, pool, ledger)} with room for it"
        yield line
    if not ledger.pools:
        yield "no GPU is known"


def _is_there_room(ask: Ask, route: Route, ledger: Ledger) -> bool:
    if route.reason is not None:
        return False
    fitting = {pool: _num_fitting(ask, pool, ledger) for pool in route.pools}
    is_enough = _most(route, fitting) >= ask.num_workers
    return is_enough and (ask.num_workers == 1 or _is_in_one_place(ask, route, ledger))


def _most(route: Route, fitting: dict[Pool, int]) -> int:
    return sum(fitting.values()) if route.is_mixed else max(fitting.values())


def _num_admitted(ask: Ask, pool: Pool, ledger: Ledger) -> int:
    counts = pool.num_cards.items()
    return sum(num for order, num in counts if ledger.by_order[order].admits(ask.labels))


def _num_fitting(ask: Ask, pool: Pool, ledger: Ledger) -> int:
    if ask.labels:
        return sum(_fitting_by_node(ask, pool, ledger))
    if ask.size is None:
        return ledger.tally(pool, None).num_cards
    return len(pool.by_free) - bisect_left(pool.by_free, (ask.size,))


def _fitting_by_node(ask: Ask, pool: Pool, ledger: Ledger) -> Iterator[int]:
    """Cards with room on each node that has some, and the labels."""
    for order, num in ledger.tally(pool, ask.size).count.items():
        if ledger.by_order[order].admits(ask.labels):
            yield num


def _is_in_one_place(ask: Ask, route: Route, ledger: Ledger) -> bool:
    if route.is_spread or route.is_mixed:
        return True
    return any(_most_on_a_node(ask, pool, ledger) >= ask.num_workers for pool in route.pools)


def _most_on_a_node(ask: Ask, pool: Pool, ledger: Ledger) -> int:
    counts = ledger.tally(pool, ask.size).orders
    return max(_fitting_by_node(ask, pool, ledger) if ask.labels else counts, default=0)


def _size(num_bytes: Bytes) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
