"""What a rank needs of a card when the ranks of a gang split weights and optimizer state."""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.plan.footprint import Demand
from orchestrator.types import Bytes

__all__ = ["split_demand"]

_STATE = ("weights", "gradients", "optimizer", "ema")
_WHOLE = 0.25  # guess: of the weights, what is whole at one time: two blocks, and their gradients


def split_demand(
    demand: Demand, parts: Mapping[str, Bytes], world_size: int, *, is_on_host: bool
) -> Demand:
    """The demand of a step of one rank, after its state has been split.

    What a rank keeps of weights, gradients, optimizer state and averages is an equal part, or
    nothing where the parts lie on the host; blocks are whole only while they compute. Activations
    stay as they are.

    Args:
        demand: Of a step with all of the state on the card.
        parts: What holds the bytes of its peak, as `Footprint.parts` has it.
        world_size: Ranks that share the state.
        is_on_host: Whether the parts lie in the host's memory.
    """
    state = sum(parts.get(name, 0) for name in _STATE)
    kept = 0 if is_on_host else -(-state // world_size)
    whole = min(state, int(_WHOLE * parts.get("weights", 0)))
    saved = max(0, state - kept - whole)
    return replace(
        demand,
        allocated_bytes=max(0, demand.allocated_bytes - saved),
        reserved_bytes=max(0, demand.reserved_bytes - saved),
        least_bytes=max(0, demand.least_bytes - saved),
    )
