"""The tables of a new store, as its migrations would leave them, without Alembic's imports."""

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, insert

from orchestrator.store.schema import HEAD, VERSION_TABLE, lease, metadata

__all__ = ["create"]

_version = Table(  # as Alembic makes it
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)


def create(connection: Connection) -> None:
    """Make the tables in an empty database, inside the transaction that `connection` is in."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(lease).values(id=1, epoch=0))
    _version.create(connection)
    connection.execute(insert(_version).values(version_num=HEAD))
