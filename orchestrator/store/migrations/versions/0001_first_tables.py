"""The first tables: journal, runs, progress, checkpoints, inbox, book, lease."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table and the one row of the lease."""
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    _journal_and_projections(serial)
    op.create_table(
        "inbox",
        sa.Column("id", serial, primary_key=True),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("submits", sa.Text, unique=True),
        sa.Column("substance", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("taken_seq", serial, sa.ForeignKey("journal.seq")),
        sa.Index("inbox_taken", "taken_seq"),
    )
    op.create_table(
        "book",
        sa.Column("id", serial, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("imgsz", sa.Integer, nullable=False),
        sa.Column("micro_batch", sa.Integer, nullable=False),
        sa.Column("precision", sa.Text, nullable=False),
        sa.Column("optimizer", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("peak_bytes", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("attempt", sa.Text, nullable=False),
        sa.Index("book_of_model", "model", "imgsz"),
    )
    lease = op.create_table(
        "lease",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("pid", sa.Integer),
        sa.Column("since", sa.Double),
        sa.CheckConstraint("id = 1", name="lease_has_one_row"),
    )
    op.bulk_insert(lease, [{"id": 1, "epoch": 0}])


def _journal_and_projections(serial: sa.types.TypeEngine[int]) -> None:
    op.create_table(
        "journal",
        sa.Column("seq", serial, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("attempt", sa.Integer),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Index("journal_of_run", "run_id", "seq"),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("is_terminal", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Index("runs_of_project", "project"),
    )
    op.create_table(
        "progress",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("seq", serial, sa.ForeignKey("journal.seq"), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("seq", serial, sa.ForeignKey("journal.seq"), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["run_id", "epoch"], ["progress.run_id", "progress.epoch"]),
    )


def downgrade() -> None:
    """Refuse: the journal is never thrown away."""
    raise NotImplementedError("the first version cannot be undone: it holds the journal")
