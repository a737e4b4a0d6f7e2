"""Stores as earlier versions of the product left them."""

from pathlib import Path

from sqlalchemy import create_engine

from orchestrator.store.migrations import upgrade

__all__ = ["make_store_of"]


def make_store_of(version: str, path: Path) -> None:
    """A new SQLite file with the tables as this version had them, empty."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        upgrade(connection, version=version)
    engine.dispose()
