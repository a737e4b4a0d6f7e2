"""Lists read one row a run, nodes are kept, askings are found by what they ask, drivers beat."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and columns, and fill them from what is recorded."""
    latest = op.create_table(
        "latest",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("best_epoch", sa.Integer),
        sa.Column("best", sa.Text, nullable=False),
        sa.Column("peak_bytes", sa.BigInteger, nullable=False),
    )
    nodes = op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.add_column("inbox", sa.Column("fingerprint", sa.Text))
    op.create_index("inbox_asking", "inbox", ["fingerprint"])
    op.add_column("lease", sa.Column("beat", sa.Double))
    connection = op.get_bind()
    if rows := _latest(connection):
        connection.execute(sa.insert(latest), rows)
    if known := _nodes(connection):
        bodies = [{"node_id": name, "body": json.dumps(node)} for name, node in known.items()]
        connection.execute(sa.insert(nodes), bodies)


def _latest(connection: sa.Connection) -> list[dict[str, Any]]:
    query = sa.text("SELECT run_id, epoch, body FROM checkpoints ORDER BY epoch")
    best: dict[str, int] = {
        run_id: epoch
        for run_id, epoch, body in connection.execute(query)
        if json.loads(body).get("is_best")
    }
    found: dict[str, dict[str, Any]] = {}
    for run_id, epoch, body in connection.execute(
        sa.text("SELECT run_id, epoch, body FROM progress ORDER BY epoch")
    ):
        progress = json.loads(body)
        metrics = json.dumps(progress["metrics"])
        start = {"run_id": run_id, "best_epoch": best.get(run_id), "best": "{}", "peak_bytes": 0}
        row = found.setdefault(run_id, start)
        peak = max(row["peak_bytes"], progress.get("peak_bytes", 0))
        row |= {"epoch": epoch, "metrics": metrics, "peak_bytes": peak}
        if row["best_epoch"] == epoch:
            row["best"] = metrics
    return list(found.values())


def _nodes(connection: sa.Connection) -> dict[str, Any]:
    kinds = "'NodeJoined', 'NodeChanged', 'NodeLost'"
    query = f"SELECT kind, body FROM journal WHERE kind IN ({kinds}) ORDER BY seq"  # noqa: S608 - constants
    known: dict[str, Any] = {}
    for kind, text in connection.execute(sa.text(query)):
        body = json.loads(text)["body"]
        if kind == "NodeLost":
            known.pop(body["node_id"], None)
        else:
            known[body["node"]["node_id"]] = body["node"]
    return known


def downgrade() -> None:
    """Refuse: nothing that was recorded is thrown away."""
    raise NotImplementedError("what lists read cannot be taken away again")
