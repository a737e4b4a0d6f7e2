"""The book holds one row an attempt and cut, with what was watched and what was predicted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; rows of before, if any, keep what they had."""
    for column in (
        sa.Column("trainer", sa.Text, nullable=False, server_default=""),
        sa.Column("is_emulated", sa.Integer, nullable=False, server_default="0"),
        sa.Column("peak_reserved_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("steps", sa.Integer, nullable=False, server_default="0"),
        sa.Column("predicted_bytes", sa.BigInteger),
        sa.Column("workload", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("book", column)
    op.create_index("book_of_attempt", "book", ["attempt", "micro_batch"], unique=True)


def downgrade() -> None:
    """Refuse: measured peaks are not thrown away."""
    raise NotImplementedError("the book of measured peaks cannot be narrowed again")
