"""What a driver tells of the cluster as a whole: queues, and places that are put aside."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; the next driver fills it."""
    op.create_table(
        "board",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Refuse: nothing that was recorded is thrown away."""
    raise NotImplementedError("what a driver told cannot be taken away again")
