"""What can be wrong with a database, in words of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dia_server.errors import BadInput, DatabaseUnavailable, StorageFull

# SQLite's names begin so: a locked database, a disk that can't be written to or read, a file that is none.
_SQLITE_TROUBLES = (
    "SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_CORRUPT", "SQLITE_FULL", "SQLITE_INTERRUPT", "SQLITE_IOERR",
    "SQLITE_LOCKED", "SQLITE_NOMEM", "SQLITE_NOTADB", "SQLITE_PERM", "SQLITE_PROTOCOL", "SQLITE_READONLY",
)  # fmt: skip
# PostgreSQL's classes of codes, https://www.postgresql.org/docs/current/errcodes-appendix.html: connection, who may
# connect, no such database, read-only, rollback, resources, not ready, operator, system.
_POSTGRESQL_TROUBLES = ("08", "28", "3D", "25006", "40", "53", "55", "57", "58")
_POSTGRESQL_FULL = "53100"
# Such as text with a NUL, which PostgreSQL can't hold.
_POSTGRESQL_BAD_DATA = "22"


@contextmanager
def translated() -> Iterator[None]:
    """Errors that an admin has to mend, and input that no database can hold, as errors of ours; others are bugs.

    Raises:
        DatabaseUnavailable, StorageFull, BadInput: nothing was written.
    """
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        ours = explained(error)
        if ours is None:
            raise
        raise ours from error


def explained(error: Exception) -> DatabaseUnavailable | StorageFull | BadInput | None:
    """The error in our words; None for a bug."""
    names = _names(error)
    if names in ("SQLITE_FULL", _POSTGRESQL_FULL):
        return StorageFull("The disk of the server's database is full; nothing was stored")
    if names.startswith(_POSTGRESQL_BAD_DATA):
        return BadInput(f"The database can't look for that: {reason(error)}")
    if is_trouble(error):
        return DatabaseUnavailable(
            f"The server's database can't be used now: {reason(error)}; try again in a moment", retry_after=5
        )
    return None


def is_trouble(error: Exception) -> bool:
    """Whether the database is to blame, not what was asked of it; its transaction is over then."""
    if isinstance(error, OSError | PoolTimeout):
        return True
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or _names(error).startswith((*_SQLITE_TROUBLES, *_POSTGRESQL_TROUBLES))


def reason(error: Exception) -> str:
    """The driver's first line; the rest may hold the statement with what somebody wrote."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).splitlines()
    return lines[0].rpartition(">: ")[2] if lines else type(cause).__name__


def _names(error: Exception) -> str:
    """What the database itself calls it."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
