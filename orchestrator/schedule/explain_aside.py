"""When a place takes runs again: one put aside after failures, one whose disk is nearly full."""

from orchestrator.schedule.cards import CardRoom
from orchestrator.schedule.health import Health
from orchestrator.types import Seconds

__all__ = ["opens"]


def opens(card: CardRoom, health: Health, at: Seconds) -> str:
    """When a card that is put aside takes runs again, in words."""
    if card.node.node.shortage:
        return "goes on by itself once there is room"
    opens_at = health.opens_at(card.node.node.node_id, card.card.index)
    if opens_at is None:
        return "until a person says that it is mended: orc gpus mend"
    return f"tried again in {_span(opens_at - at)}"


def _span(seconds: Seconds) -> str:
    seconds = max(seconds, 0.0)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
