"""An epoch that an attempt has left halfway: which one is gone on with, and when to keep one."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.ports import RunLink
from orchestrator.trainer.ranks import Ranks
from orchestrator.types import CheckpointRef, Seconds, StopMode

__all__ = ["Keeper", "agreed_unfinished", "is_of"]

log = logging.getLogger(__name__)


class Keeper:
    """Asks at every batch boundary whether to leave, and has the epoch kept when it is time.

    Args:
        link: To the driver.
        ranks: Of the gang; all ask at the same steps.
        every: Seconds of training between two times that an epoch is kept; 0 keeps it only where
            the attempt is asked to leave.
        keep: Keeps what is done of the epoch; called on all ranks at the same step.
    """

    def __init__(
        self, link: RunLink, ranks: Ranks, *, every: Seconds, keep: Callable[[], None]
    ) -> None:
        self._link, self._ranks = link, ranks
        self._every, self._keep = every, keep
        self._kept_at = time.monotonic()

    def must_leave(self, *, is_begun: bool) -> bool:
        """Whether to leave now; keeps before what is done, if steps were taken since the start."""
        is_due = 0 < self._every <= time.monotonic() - self._kept_at
        mode, is_due = self._ranks.heard(self._link.stop_requested(), is_due=is_due)
        if is_begun and (is_due or mode is StopMode.AT_BATCH):
            try:
                self._keep()
            except StoreError as error:  # the epoch is repeated then, as after a crash
                log.warning("what is done of the epoch is not kept: %s", error.what)
            self._kept_at = time.monotonic()
        return mode in (StopMode.AT_BATCH, StopMode.ABANDON)


def agreed_unfinished(link: RunLink, ranks: Ranks) -> CheckpointRef | None:
    """What an attempt before has kept of the next epoch; the same on all ranks of a gang."""
    found = link.unfinished()
    digest = ranks.of_first("" if found is None else found.sha256)
    has_it = found is not None and found.sha256 == digest
    _, all_have_it = ranks.most_and_least(0, int(has_it))
    if digest and not all_have_it:
        log.warning("not every rank has what was kept of the epoch: it is repeated")
    return found if all_have_it else None


def is_of(state: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether a kept state is of the epoch that is next; what differs is told in the log.

    Args:
        state: As it was kept.
        expected: From which checkpoint the epoch begins, and what its steps are made of.
    """
    other = [name for name, value in expected.items() if state["expected"].get(name) != value]
    if other:
        log.warning("what was kept of the epoch is not gone on from, other: %s", ", ".join(other))
    return not other
