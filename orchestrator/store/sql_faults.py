"""What SQLite, PostgreSQL and SQLAlchemy raise, turned into the store's faults."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from orchestrator.store.faults import (
    FULL,
    LOCKED,
    NOT_OURS,
    OTHER,
    READ_ONLY,
    UNREACHABLE,
    Fault,
    explained_disk,
    store_error,
)

__all__ = ["explained"]

# Primary result codes, https://www.sqlite.org/rescode.html
_SQLITE = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_BUSY: LOCKED,
    sqlite3.SQLITE_LOCKED: LOCKED,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: READ_ONLY,
    sqlite3.SQLITE_NOTADB: NOT_OURS,
    sqlite3.SQLITE_CORRUPT: NOT_OURS,
}

# Classes and codes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES = {"53100": FULL, "55P03": LOCKED, "25006": READ_ONLY, "42501": READ_ONLY}


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a failure of the database or the disk inside into a StoreError about `what`.

    An IntegrityError passes: the caller asked for uniqueness and has to answer it.
    """
    try:
        with explained_disk(what):
            yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise store_error(what, _database_fault(error.orig), str(error.orig)) from error
    except sqlite3.Error as error:
        raise store_error(what, _database_fault(error), str(error)) from error
    except SQLAlchemyError as error:
        raise store_error(what, OTHER, str(error)) from error


def _database_fault(error: BaseException | None) -> Fault:
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        # The index of the WAL lies in memory that is mapped from the disk; making room for it
        # reports a full disk under a name of its own.
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return FULL
        return _SQLITE.get(code & 0xFF, OTHER)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _POSTGRES.get(state, UNREACHABLE if state[:2] in ("08", "28", "57") else OTHER)
    return UNREACHABLE if type(error).__name__ == "OperationalError" else OTHER
