"""Going on with runs that come after others: what a failure took along is resumed with it."""

from collections.abc import Mapping, Sequence

from orchestrator.client.access import Client
from orchestrator.errors import ConfigError
from orchestrator.schedule.dependencies import predecessors
from orchestrator.types import Cause, RunId, RunState, RunStatus

__all__ = ["with_followers"]


def with_followers(client: Client, ids: Sequence[RunId]) -> tuple[RunId, ...]:
    """The runs, and those that ended because one of them did; each behind what it comes after.

    Raises:
        ConfigError: E1034, one of them comes after a run that has ended without success and is
            not among them: it could only end again.
    """
    if not client.path.exists():
        return tuple(ids)
    with client.store() as store:
        statuses = {status.run_id: status for status in store.statuses()}
        before = {
            run_id: predecessors(store.spec(run_id))
            for run_id, status in statuses.items()
            if run_id in ids or status.cause is Cause.DEPENDENCY_FAILED
        }
    chosen = dict.fromkeys(ids)
    while more := [
        run_id
        for run_id, others in before.items()
        if run_id not in chosen and any(other in chosen for other in others)
    ]:
        chosen.update(dict.fromkeys(more))
    for run_id in chosen:
        _demand_before(run_id, before.get(run_id, ()), chosen, statuses)
    return _in_order(list(chosen), before)


def _demand_before(
    run_id: RunId,
    others: Sequence[RunId],
    chosen: Mapping[RunId, None],
    statuses: Mapping[RunId, RunStatus],
) -> None:
    own = statuses.get(run_id)
    if own is None or not own.state.is_terminal:
        return
    for other in others:
        status = statuses.get(other)
        if other in chosen or status is None or not status.state.is_terminal:
            continue
        if status.state is not RunState.SUCCEEDED:
            raise ConfigError(
                f"{run_id} comes after {other}, which {status.state}",
                code="E1034",
                fix=(f"orc resume {other}: what comes after it goes on too",),
            )


def _in_order(ids: list[RunId], before: Mapping[RunId, Sequence[RunId]]) -> tuple[RunId, ...]:
    ordered: dict[RunId, None] = {}
    while len(ordered) < len(ids):
        left = [run_id for run_id in ids if run_id not in ordered]
        ready = [r for r in left if not any(other in left for other in before.get(r, ()))]
        ordered.update(dict.fromkeys(ready or left))  # a line has no circle; nothing is dropped
    return tuple(ordered)
