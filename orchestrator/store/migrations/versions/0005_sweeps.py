"""Sweeps: one row each, and a journal of what was suggested, reported and decided."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "sweeps",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("substance", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "sweep_journal",
        sa.Column("seq", _Serial, primary_key=True),
        sa.Column("sweep", sa.Text, sa.ForeignKey("sweeps.name"), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("sweep_journal_of_sweep", "sweep_journal", ["sweep", "seq"])
    op.create_index("sweep_journal_once", "sweep_journal", ["sweep", "key"], unique=True)


def downgrade() -> None:
    """Refuse: nothing that was recorded is thrown away."""
    raise NotImplementedError("what sweeps recorded cannot be taken away again")
