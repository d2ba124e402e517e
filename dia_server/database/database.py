"""The database as the rest of the house sees it: reads side by side, writes in transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Row, event, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from dia_server.database.group_commit import GroupCommit
from dia_server.database.schema import bring_up_to_date
from dia_server.database.troubles import reason, translated
from dia_server.errors import DiaServerError, SettingsError
from dia_server.settings import Settings

FILE = "dia-server.db"
CONNECTIONS = 4

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
        except (SQLAlchemyError, OSError, ValueError) as error:
            raise SettingsError(f"The database {_shown(url)} can't be used: {reason(error)}") from None
        yield database
    finally:
        await database.close()


async def describe(settings: Settings, home: Path) -> str:
    """What the database is, once it has answered; nothing in it is changed.

    Raises:
        SettingsError: it can't be reached.
    """
    url = _url(settings.database_url, home)
    database = Database(url, settings.database_timeout)
    try:
        await database.read(select(1))
    except (DiaServerError, SQLAlchemyError, ValueError) as error:
        raise SettingsError(f"The database {_shown(url)} can't be used: {reason(error)}") from None
    finally:
        await database.close()
    return f"{'SQLite' if database.is_sqlite else 'PostgreSQL'}, {_shown(url)}"


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


def _shown(url: URL) -> str:
    """Without a password, which may stand behind the question mark too."""
    host = url.host or url.query.get("host", "")
    return f"'{url.database}' on '{host}'" if host else f"'{url.database}'"


class Database:
    """Statements are SQLAlchemy's; a write is a function of a connection, run within a transaction."""

    def __init__(self, url: URL, timeout: float) -> None:
        """`timeout` in seconds bounds every wait."""
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.writing = _sqlite(url, timeout, begin="BEGIN IMMEDIATE", connections=1)
            self._reading = _sqlite(url, timeout, begin="BEGIN", connections=CONNECTIONS)
        else:
            self.writing = self._reading = _postgresql(url, timeout)
        self._group_commit = GroupCommit(self.writing) if self.is_sqlite else None

    async def close(self) -> None:
        """Let go of all connections, once what was given is written."""
        if self._group_commit is not None:
            await self._group_commit.close()
        await self._reading.dispose()
        await self.writing.dispose()

    async def read(self, statement: Executable) -> Sequence[Row[Any]]:
        """The rows of one statement.

        Raises:
            DatabaseUnavailable: the database is locked or away.
            BadInput: it asks for what no database can hold.
        """
        with translated():
            async with self._reading.connect() as connection:
                return (await connection.execute(statement)).all()

    async def write(self, work: Callable[[Connection], Result], flush: Callable[[], object] | None = None) -> Result:
        """What `work` returns, once its transaction is on the disk.

        `flush` runs on a thread between the work and the commit: it brings to the disk what has to be there first.

        Raises:
            DatabaseUnavailable, StorageFull, BadInput: nothing was written; the first also where the flush fails.
        """
        with translated():
            if self._group_commit is not None:
                return await self._group_commit.write(work, flush)
            async with self.writing.begin() as connection:
                result = await connection.run_sync(work)
                if flush is not None:
                    await asyncio.to_thread(flush)
                return result


def _postgresql(url: URL, timeout: float) -> AsyncEngine:
    # asyncpg itself reads the URL, since it knows what PostgreSQL's own tools take there, such as sslmode.
    dsn = url.render_as_string(hide_password=False)
    return create_async_engine(
        "postgresql+asyncpg://",
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"dsn": dsn, "timeout": timeout, "command_timeout": timeout},
    )


def _sqlite(url: URL, timeout: float, *, begin: str, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout,
        hide_parameters=True,
        connect_args={"timeout": timeout},
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
