"""The tables of the store and the version that this code reads and writes."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

__all__ = [
    "HEAD",
    "VERSION_TABLE",
    "board",
    "book",
    "checkpoints",
    "findings",
    "inbox",
    "journal",
    "latest",
    "lease",
    "metadata",
    "nodes",
    "progress",
    "runs",
    "sweep_journal",
    "sweeps",
]

HEAD = "0007"
"""The newest migration. Versions are compared as text, so they keep their four digits."""

VERSION_TABLE = "meta"
"""Where Alembic keeps the version of a store."""

metadata = MetaData()

# SQLite numbers rows by itself only in a column that is called INTEGER, which holds 64 bits there.
_Serial = BigInteger().with_variant(Integer(), "sqlite")

journal = Table(
    "journal",
    metadata,
    Column("seq", _Serial, primary_key=True),
    Column("at", Double, nullable=False),
    Column("run_id", Text),
    Column("attempt", Integer),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("journal_of_run", "run_id", "seq"),
)

runs = Table(  # one row a run: RunStatus in `body`; `attempt` and `is_terminal` are the fence
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("is_terminal", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("body", Text, nullable=False),
    Index("runs_of_project", "project"),
)

progress = Table(  # one row a run and epoch, of the newest attempt that completed it
    "progress",
    metadata,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("seq", _Serial, ForeignKey("journal.seq"), nullable=False),
    Column("body", Text, nullable=False),
)

checkpoints = Table(  # the checkpoint written with an epoch, replaced together with it
    "checkpoints",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("seq", _Serial, ForeignKey("journal.seq"), nullable=False),
    Column("body", Text, nullable=False),
    ForeignKeyConstraint(["run_id", "epoch"], ["progress.run_id", "progress.epoch"]),
)

latest = Table(  # the epochs of a run in short, for lists: the last one, the best one, the peak
    "latest",
    metadata,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("best_epoch", Integer),
    Column("best", Text, nullable=False),
    Column("peak_bytes", BigInteger, nullable=False),
)

nodes = Table(  # nodes that joined and were not lost: those of the driver, or of the last one
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

board = Table(  # what the driver last told of the cluster as a whole
    "board",
    metadata,
    Column("name", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

inbox = Table(  # what people asked for; a taken row stays, so that its key stays taken too
    "inbox",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("key", Text, unique=True),
    Column("submits", Text, unique=True),  # the run id, when a run is submitted
    Column("substance", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("taken_seq", _Serial, ForeignKey("journal.seq")),
    Column("fingerprint", Text),  # of what a submission asks for, without its id
    Index("inbox_taken", "taken_seq"),
    Index("inbox_asking", "fingerprint"),
)

book = Table(  # measured peaks of memory, one row an attempt and cut
    "book",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("model", Text, nullable=False),
    Column("imgsz", Integer, nullable=False),
    Column("micro_batch", Integer, nullable=False),
    Column("precision", Text, nullable=False),
    Column("optimizer", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("versions", Text, nullable=False),
    Column("peak_bytes", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Text, nullable=False),
    Column("trainer", Text, nullable=False, server_default=""),
    Column("is_emulated", Integer, nullable=False, server_default="0"),
    Column("peak_reserved_bytes", BigInteger, nullable=False, server_default="0"),
    Column("steps", Integer, nullable=False, server_default="0"),
    Column("predicted_bytes", BigInteger),
    Column("workload", Text, nullable=False, server_default=""),
    Column("has_validation", Integer, nullable=False, server_default="1"),
    Index("book_of_model", "model", "imgsz"),
    Index("book_of_attempt", "attempt", "micro_batch", unique=True),
)

findings = Table(  # settings that runs have tried, one row for each and what it holds for
    "findings",
    metadata,
    Column("key", Text, primary_key=True),  # SHA-256 of what it holds for
    Column("model", Text, nullable=False),
    Column("is_measured", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Text, nullable=False),
    Column("body", Text, nullable=False),
)

lease = Table(  # one row: who drives. The lock beside it decides; the epoch fences writes.
    "lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text),
    Column("host", Text),
    Column("pid", Integer),
    Column("since", Double),
    Column("beat", Double),  # the last sign of life, by the clock of the store
    CheckConstraint("id = 1", name="lease_has_one_row"),
)

sweeps = Table(  # one row a sweep; `epoch` fences off whoever conducted it before
    "sweeps",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", Double, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("substance", Text, nullable=False),  # SHA-256 of what decides its trials
    Column("body", Text, nullable=False),
)

sweep_journal = Table(  # what a sweep suggested, was told and decided; each thing once, by `key`
    "sweep_journal",
    metadata,
    Column("seq", _Serial, primary_key=True),
    Column("sweep", Text, ForeignKey("sweeps.name"), nullable=False),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("trial", Integer, nullable=False),  # 0: of the whole sweep
    Column("key", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("sweep_journal_of_sweep", "sweep", "seq"),
    Index("sweep_journal_once", "sweep", "key", unique=True),
)
