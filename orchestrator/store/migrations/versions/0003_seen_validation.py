"""A row of the book says whether a validation was among what was watched."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; rows of runs were written after epochs, others were measured without."""
    column = sa.Column("has_validation", sa.Integer, nullable=False, server_default="1")
    op.add_column("book", column)
    op.execute(
        "UPDATE book SET has_validation = 0 WHERE NOT EXISTS"
        " (SELECT 1 FROM runs WHERE book.attempt LIKE runs.run_id || '#%')"
    )


def downgrade() -> None:
    """Refuse: measured peaks are not thrown away."""
    raise NotImplementedError("the book of measured peaks cannot be narrowed again")
