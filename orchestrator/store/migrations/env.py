"""Runs the migrations on the connection it is handed; Alembic executes this file."""

from alembic import context

from orchestrator.store.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite can roll back CREATE and ALTER TABLE; Alembic does not assume so by itself.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
