"""A run's status: the row that people read, taken from its record."""

from orchestrator.schedule.ledger import Ledger
from orchestrator.schedule.runs import RunRecord
from orchestrator.types import PendingReason, Placement, RunStatus

__all__ = ["gpu_text", "status_of"]


def status_of(record: RunRecord, reason: PendingReason | None) -> RunStatus:
    """Project a record; `reason` says why it waits, if it does."""
    spec = record.spec
    return RunStatus(
        run_id=spec.run_id,
        project=spec.project,
        trainer=spec.trainer,
        state=record.state,
        attempt=record.attempt,
        priority=record.priority,
        order=record.order,
        queue=spec.queue,
        epoch=record.epoch,
        epochs=spec.settings.epochs,
        submitted_at=record.submitted_at,
        started_at=record.first_started_at,
        ended_at=record.ended_at,
        reason=reason,
        cause=record.cause,
        detail=record.detail,
        batch=record.batch,
        placement=record.placement,
        gpu=record.gpu,
        folder=spec.folder,
        address=spec.address,
        part=spec.part,
    )


def gpu_text(placement: Placement, ledger: Ledger) -> str:
    """Name every share as "node:index name"; a run on the CPU is on "cpu"."""
    words: list[str] = []
    for share in placement.shares:
        if share.card is None:
            return "cpu"
        card = ledger.nodes[share.node_id].cards[share.card].card
        mark = " (emulated)" if card.is_emulated else ""
        words.append(f"{share.node_id}:{share.card} {card.name}{mark}")
    return ", ".join(words)
