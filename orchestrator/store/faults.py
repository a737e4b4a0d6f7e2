"""Failures of the disk and the database, turned into StoreErrors that people can use."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from orchestrator.errors import StoreError

__all__ = ["explained"]

_FULL = ("E5004", "is full: the disk has no room", "free space on that disk, then start again")
_LOCKED = (
    "E5002",
    "is locked by another process",
    "close the program that holds it, such as a database browser",
)
_READ_ONLY = (
    "E5003",
    "cannot be written",
    "check the owner and the permissions, or choose another folder with ORC_HOME",
)
_NOT_OURS = (
    "E5001",
    "is not a readable database",
    "move it away and restore a backup, or choose another folder with ORC_HOME",
)
_UNREACHABLE = ("E5015", "cannot be reached", "check the address, and that the server is up")
_OTHER = ("E5016", "failed", "check the disk and the system's log")

# Primary result codes, https://www.sqlite.org/rescode.html
_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_NOTADB: _NOT_OURS,
    sqlite3.SQLITE_CORRUPT: _NOT_OURS,
}

# Classes and codes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES = {"53100": _FULL, "55P03": _LOCKED, "25006": _READ_ONLY, "42501": _READ_ONLY}

_SYSTEM = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
}


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a failure of the database or the disk inside into a StoreError about `what`.

    An IntegrityError passes: the caller asked for uniqueness and has to answer it.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise _store_error(what, _database_fault(error.orig), str(error.orig)) from error
    except sqlite3.Error as error:
        raise _store_error(what, _database_fault(error), str(error)) from error
    except SQLAlchemyError as error:
        raise _store_error(what, _OTHER, str(error)) from error
    except OSError as error:
        fault = _SYSTEM.get(error.errno or 0, _OTHER)
        raise _store_error(what, fault, str(error)) from error


def _database_fault(error: BaseException | None) -> tuple[str, str, str]:
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        # The index of the WAL lies in memory that is mapped from the disk; making room for it
        # reports a full disk under a name of its own.
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return _FULL
        return _SQLITE.get(code & 0xFF, _OTHER)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _POSTGRES.get(state, _UNREACHABLE if state[:2] in ("08", "28", "57") else _OTHER)
    return _UNREACHABLE if type(error).__name__ == "OperationalError" else _OTHER


def _store_error(what: str, fault: tuple[str, str, str], why: str) -> StoreError:
    code, says, remedy = fault
    return StoreError(
        f"{what} {says}",
        code=code,
        why=(" ".join(why.split()),),
        fix=(remedy,),
    )
