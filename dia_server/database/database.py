"""The database as the rest of the house sees it: reads side by side, writes in transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Row, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dia_server.database.schema import bring_up_to_date
from dia_server.errors import BadInput, DatabaseUnavailable, SettingsError, StorageFull
from dia_server.settings import Settings

FILE = "dia-server.db"
READERS = 4
# Writes that wait together are committed together: each commit waits for the disk, some 5 ms.
MOST_AT_ONCE = 200
# PostgreSQL's codes for a full disk, and for text that it can't hold, such as one with a NUL.
DISK_FULL = "53100"
BAD_DATA = "22"

Result = TypeVar("Result")


@asynccontextmanager
async def open_database(settings: Settings, home: Path) -> AsyncIterator[Database]:
    """The database that the settings name, with the schema of this version.

    Raises:
        SettingsError: it can't be reached, or has the schema of a newer version.
    """
    url = _url(settings.database_url, home)
    database = Database(url, settings.database_timeout)
    try:
        try:
            await bring_up_to_date(database.writing)
        except (DBAPIError, PoolTimeout, OSError) as error:
            where = url.render_as_string(hide_password=True)
            raise SettingsError(f"The database can't be used ({where}): {_reason(error)}; check database_url") from None
        yield database
    finally:
        await database.close()


def _url(given: str, home: Path) -> URL:
    if not given:
        return URL.create("sqlite+aiosqlite", database=str(home / FILE))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        url = URL.create("")
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql")
    raise SettingsError("database_url must be empty, or like postgresql://user:password@host/database")


class Database:
    """Statements are SQLAlchemy's; a write is a function of a connection, run within a transaction."""

    def __init__(self, url: URL, timeout: float) -> None:
        """`timeout` in seconds bounds every wait."""
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._timeout = timeout
        self._queue: asyncio.Queue[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._committer: asyncio.Task[None] | None = None
        if self.is_sqlite:
            self.writing = _sqlite(url, timeout, begin="BEGIN IMMEDIATE", connections=1)
            self._reading = _sqlite(url, timeout, begin="BEGIN", connections=READERS)
        else:
            # asyncpg itself reads the URL, since it knows what PostgreSQL's own tools take there, such as sslmode.
            dsn = url.render_as_string(hide_password=False)
            self.writing = self._reading = create_async_engine(
                "postgresql+asyncpg://",
                pool_size=READERS,
                pool_timeout=timeout,
                pool_pre_ping=True,
                connect_args={"dsn": dsn, "timeout": timeout, "command_timeout": timeout},
            )

    async def close(self) -> None:
        """Let go of all connections."""
        if self._committer is not None:
            self._committer.cancel()
            await asyncio.gather(self._committer, return_exceptions=True)
        await self._reading.dispose()
        await self.writing.dispose()

    async def read(self, statement: Executable) -> Sequence[Row[Any]]:
        """The rows of one statement.

        Raises:
            DatabaseUnavailable: the database is locked or away.
        """
        with _translated():
            async with self._reading.connect() as connection:
                return (await connection.execute(statement)).all()

    async def write(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns, once its transaction is on the disk.

        Raises:
            DatabaseUnavailable, StorageFull: nothing was written.
        """
        if not self.is_sqlite:
            with _translated():
                async with self.writing.begin() as connection:
                    return await connection.run_sync(work)
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_all(), name="database")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((work, future))
        return await future

    async def _commit_all(self) -> None:
        """SQLite has one writer at a time, so whatever waits meanwhile shares the next transaction."""
        while True:
            works = [await self._queue.get()]
            while not self._queue.empty() and len(works) < MOST_AT_ONCE:
                works.append(self._queue.get_nowait())
            works = [(work, future) for work, future in works if not future.done()]
            try:
                with _translated():
                    async with self.writing.begin() as connection:
                        done = await connection.run_sync(_run_each, [work for work, _ in works])
            except DatabaseUnavailable as error:
                # Whoever came in the meantime has waited as long, or will in vain.
                while not self._queue.empty():
                    works.append(self._queue.get_nowait())
                done = [error] * len(works)
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                done = [error] * len(works)
            for (_, future), outcome in zip(works, done, strict=True):
                if not future.done():
                    _settle(future, outcome)


def _run_each(connection: Connection, works: list[Callable[[Connection], Any]]) -> list[Any]:
    """What each returns, or its error, which leaves the others alone."""
    outcomes: list[Any] = []
    for work in works:
        try:
            with connection.begin_nested():
                outcomes.append(work(connection))
        except OperationalError:
            raise  # the disk is full, say, and the transaction over
        except Exception as error:  # noqa: BLE001 - it is for whoever gave the work
            outcomes.append(error)
    return outcomes


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _sqlite(url: URL, timeout: float, *, begin: str, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        url, pool_size=connections, max_overflow=0, pool_timeout=timeout, connect_args={"timeout": timeout}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        # Python's driver would begin transactions by itself, and late.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translated() -> Iterator[None]:
    """Errors that an admin has to mend as errors of ours; others are bugs."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        if _is_full(error):
            raise StorageFull("The disk of the server's database is full; nothing was stored") from error
        if _code(error).startswith(BAD_DATA):
            raise BadInput(f"The database can't look for that: {_reason(error)}") from error
        raise DatabaseUnavailable(
            f"The server's database can't be used now: {_reason(error)}; try again in a moment", retry_after=5
        ) from error


def _is_full(error: Exception) -> bool:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or _code(error) == DISK_FULL


def _code(error: Exception) -> str:
    """PostgreSQL's."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


def _reason(error: Exception) -> str:
    """The driver's first line; the rest may hold the statement with what somebody wrote."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).splitlines()
    return lines[0].rpartition(">: ")[2] if lines else type(cause).__name__
