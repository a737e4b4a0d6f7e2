"""A schema of its own in the PostgreSQL server that ORC_TEST_POSTGRES names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

__all__ = ["new_schema"]


@contextmanager
def new_schema() -> Iterator[str]:
    """The URL of an empty schema, which is dropped in the end."""
    url = make_url(os.environ["ORC_TEST_POSTGRES"])
    name = f"orc_{uuid4().hex}"
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {name}"))
        inside = url.update_query_dict({"options": f"-c search_path={name}"})
        yield inside.render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    finally:
        engine.dispose()
