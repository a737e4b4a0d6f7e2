"""What anyone may read in a store, whoever drives it: runs, epochs, journal, inbox, nodes."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import func, select

from orchestrator.errors import NotFoundError
from orchestrator.messages import CancelRequested, Event, ResumeRequested
from orchestrator.plan.correct import Peak
from orchestrator.store import asking, book, findings, lists, rows
from orchestrator.store.database import Database
from orchestrator.store.lease import Driver, driver_of, taken
from orchestrator.store.lists import Asking, Listed
from orchestrator.store.schema import journal
from orchestrator.store.sweeps import SweepTables
from orchestrator.store.watch import Watch
from orchestrator.types import (
    CheckpointRef,
    Finding,
    Node,
    NodeType,
    Progress,
    QueueRule,
    RunId,
    RunSpec,
    RunStatus,
)

__all__ = ["StoreReader"]

_PAGE = 500


class StoreReader:
    """The reading half of `SqlStore`.

    Args:
        database: Of the store; whoever made it closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.sweeps = SweepTables(database)

    def watch(self) -> Watch:
        """A way to ask often whether there may be anything new to read; open as long as this."""
        return self._database.watch()

    def driver(self) -> Driver | None:
        """Who drives the store now; None when nobody does."""
        driver = driver_of(self._database)
        return driver if driver is not None and driver.is_alive else None

    def demand_no_driver(self) -> None:
        """Raise StoreError (E5006) where somebody drives the store."""
        if self.driver() is not None:
            raise taken(self._database)

    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the driver that runs; else those that the last one had."""
        with self._database.transaction(write=False) as connection:
            return lists.nodes_of(connection)

    def node_types(self) -> tuple[NodeType, ...]:
        """What nodes the driver that runs, or the last one, may ask for."""
        with self._database.transaction(write=False) as connection:
            return lists.offer_of(connection)

    def inbox_is_empty(self) -> bool:
        """True when the driver has taken everything that was asked."""
        with self._database.transaction(write=False) as connection:
            return asking.is_empty(connection)

    def waiting(self) -> tuple[Event, ...]:
        """What was asked and no driver has taken yet, in the order of asking."""
        with self._database.transaction(write=False) as connection:
            return asking.waiting(connection)

    def last_wish(self, run_id: RunId) -> CancelRequested | ResumeRequested | None:
        """Whether a run shall stop or go on, as asked last; None where no wish waits."""
        with self._database.transaction(write=False) as connection:
            return asking.last_wish(connection, run_id)

    def waiting_for(self) -> set[str]:
        """The runs about which something was asked that no driver has taken."""
        with self._database.transaction(write=False) as connection:
            return lists.waiting_for(connection)

    def answer_to(self, key: str) -> RunId | None:
        """The run that this key was used for."""
        with self._database.transaction(write=False) as connection:
            return asking.answer_to(connection, key)

    def askings(self, fingerprint: str) -> list[Asking]:
        """Submissions that may have this fingerprint, oldest first."""
        with self._database.transaction(write=False) as connection:
            return lists.askings(connection, fingerprint)

    def listing(
        self,
        *,
        project: str | None = None,
        limit: int | None = None,
        is_unfinished: bool = False,
    ) -> tuple[list[Listed], list[dict[str, object]]]:
        """Every run for a list, oldest first, and the plain specs that no driver has taken yet.

        Args:
            project: only its runs.
            limit: of the taken ones only the newest so many.
            is_unfinished: only those that have not ended.
        """
        with self._database.transaction(write=False) as connection:
            asked = [
                spec
                for spec in lists.waiting_specs(connection)
                if project in (None, spec["project"])
            ]
            left = None if limit is None else max(0, limit - len(asked))
            known = lists.listing(
                connection, project=project, limit=left, is_unfinished=is_unfinished
            )
            return known, asked

    def board(self, name: str) -> Any:
        """What the driver last told of the whole under this name, plain; None for nothing."""
        with self._database.transaction(write=False) as connection:
            return lists.board_of(connection, name)

    def rules(self) -> dict[str, QueueRule]:
        """The rule of every queue that has one, as it was last asked for."""
        with self._database.transaction(write=False) as connection:
            return lists.rules(connection)

    def listed(self, run_id: str) -> Listed | None:
        """A run as lists show it; None when no driver has taken it."""
        with self._database.transaction(write=False) as connection:
            found = lists.listing(connection, run_id=run_id)
        return found[0] if found else None

    def projects(self) -> dict[RunId, str]:
        """The project of every run, those included that no driver has taken yet."""
        with self._database.transaction(write=False) as connection:
            return lists.projects(connection)

    def num_unfinished(self, ids: Collection[RunId]) -> int:
        """How many of these runs have not ended."""
        with self._database.transaction(write=False) as connection:
            return lists.num_unfinished(connection, ids)

    def statuses(self, project: str | None = None) -> tuple[RunStatus, ...]:
        """The published row of every run, or of those of a project, oldest submission first."""
        with self._database.transaction(write=False) as connection:
            return rows.statuses(connection, project)

    def statuses_of(self, ids: Collection[RunId]) -> tuple[RunStatus, ...]:
        """The published rows of some runs, by their ids; none for those that nobody has taken."""
        with self._database.transaction(write=False) as connection:
            found = (rows.status(connection, run_id) for run_id in ids)
            return tuple(status for status in found if status is not None)

    def status(self, run_id: str) -> RunStatus:
        """The published row of a run.

        Raises:
            NotFoundError: no such run, or no driver has taken it yet (E5020).
        """
        with self._database.transaction(write=False) as connection:
            found = rows.status(connection, run_id)
            is_waiting = found is None and rows.submission(connection, run_id) is not None
        if found is None:
            raise _not_found(run_id, is_waiting=is_waiting)
        return found

    def spec(self, run_id: str) -> RunSpec:
        """What was submitted, from the journal or, when no driver has taken it yet, the inbox.

        Raises:
            NotFoundError: no such run (E5020).
        """
        with self._database.transaction(write=False) as connection:
            found = rows.submission(connection, run_id)
        if found is None:
            raise _not_found(run_id, is_waiting=False)
        return found.spec

    def progress(self, run_id: str, after: int = 0) -> tuple[Progress, ...]:
        """One row per completed epoch, in the order of epochs; of the newest attempt each.

        Args:
            run_id: The run.
            after: Only later epochs than this one.
        """
        with self._database.transaction(write=False) as connection:
            return rows.progress_of(connection, run_id, after)

    def checkpoints(self, run_id: str) -> tuple[CheckpointRef, ...]:
        """The recorded checkpoints, the last recorded first. Older files may have been removed."""
        with self._database.transaction(write=False) as connection:
            return rows.checkpoints_of(connection, run_id)

    def events(self, run_id: str | None = None, since: int = 0) -> Iterator[tuple[int, Event]]:
        """The journal as (number, event) in the order of recording, of one run or of all.

        Args:
            run_id: only events of this run.
            since: only events with a larger number; the last number seen continues a reading.
        """
        while True:
            with self._database.transaction(write=False) as connection:
                page = rows.journal_page(connection, run_id, since, _PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            since = page[-1][0]

    def last_number(self) -> int:
        """The number of the newest event of the journal; 0 where there is none."""
        with self._database.transaction(write=False) as connection:
            return connection.scalar(select(func.max(journal.c.seq))) or 0

    def peaks(self, model: str | None = None) -> tuple[Peak, ...]:
        """The book of measured peaks, or what it says of a model, oldest first."""
        with self._database.transaction(write=False) as connection:
            return book.peaks(connection, model)

    def findings(self, model: str | None = None) -> tuple[Finding, ...]:
        """What recorded epochs told of settings that were tried, of a model or of all."""
        with self._database.transaction(write=False) as connection:
            return findings.known(connection, model)


def _not_found(run_id: str, *, is_waiting: bool) -> NotFoundError:
    if is_waiting:
        return NotFoundError(
            f"run {run_id} was submitted, and no driver has taken it yet",
            code="E5020",
            fix=("start a driver (orc serve), or wait for it",),
        )
    return NotFoundError(f"there is no run {run_id}", code="E5020", fix=("orc ls lists the runs",))
