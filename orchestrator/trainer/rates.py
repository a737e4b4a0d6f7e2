"""An optimizer's state put back under the rates of this run's own config."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

__all__ = ["RATES", "restore_under_own_rates", "steps_done"]

# What a config decides. In an attempt that goes on with its own run they are as they were; in a
# clone of another run (population based training) they are what has been changed.
RATES = ("lr", "initial_lr", "weight_decay", "momentum", "betas")


def restore_under_own_rates(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load moments and counts of `saved`; learning rate, momentum and decay stay the optimizer's.

    The schedule has to be told its step afterwards: `lr` is that of a fresh start until then.
    """
    own = [
        {name: group[name] for name in RATES if name in group} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(saved)
    for group, rates in zip(optimizer.param_groups, own, strict=True):
        group.update(rates)


def steps_done(state: Mapping[str, Any], steps_per_epoch: int) -> int:
    """Where the schedule, which is the config's own, stands after the epochs of a learner's state.

    A clone of another run may have another batch, and so another number of steps in them.
    """
    theirs = int(state.get("steps_per_epoch", steps_per_epoch))
    return int(state["num_steps"]) * steps_per_epoch // theirs
