"""The planner of this machine: its predictor, corrected by the book of a store."""

from collections.abc import Callable

from orchestrator.client.access import Client
from orchestrator.client.plans import Planner
from orchestrator.client.survey import book_of
from orchestrator.memory.predict import Predictor

__all__ = ["planner_of"]


def planner_of(
    client: Client,
    note: Callable[[str], None],
    predictor: Predictor | None = None,
    *,
    has_parts: bool = False,
) -> Planner:
    """What plans runs for a store.

    Args:
        client: Of the store; traces are kept beside it.
        note: Told when a model has to be traced, which takes seconds.
        predictor: In place of this machine's.
        has_parts: Whether plans say what holds the bytes.
    """
    if predictor is None:
        from orchestrator.memory.traced import TracedPredictor

        predictor = TracedPredictor(client.home / "memory", note=note)
    return Planner(predictor, book_of(client), has_parts=has_parts)
