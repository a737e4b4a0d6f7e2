"""The versions of the tables, applied by Alembic; imported only when a store needs one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["FOLDER", "upgrade"]

FOLDER = Path(__file__).parent


def upgrade(connection: Connection, *, folder: Path = FOLDER, version: str = "head") -> None:
    """Bring the tables to a version, the newest, inside the transaction that `connection` is in."""
    config = Config()
    # ConfigParser reads % as the start of a variable.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, version)
