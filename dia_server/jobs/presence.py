"""The processes that use the database: each says that it is there, with its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from dia_server.background import in_background
from dia_server.database.database import Database
from dia_server.database.schema import one_at_a_time
from dia_server.database.tables import database_time, runners
from dia_server.errors import DiaServerError, SettingsError
from dia_server.jobs.instance import machine_id

STAY_SECONDS = 5.0
# Who hasn't been heard of for so long doesn't count; for so long is gone; and is forgotten a day later.
SILENT_SECONDS = 15.0
GONE_SECONDS = 60.0
FORGOTTEN_SECONDS = 86_400.0

_OTHER_MACHINE = (
    "SQLite database from another machine, which SQLite can't stand. Stop it, or let both use PostgreSQL by "
    "database_url"
)
_OTHER_HOME = (
    "database with another home, so that neither would find the other's recordings and results. Let both have the "
    "same home, on a disk that they share, or a database each"
)


class Presence:
    """One process' row."""

    def __init__(self, database: Database, name: str, home: str, workers: Callable[[], tuple[int, int]]) -> None:
        """`home` is its home's id, if the database may lie elsewhere.

        `workers` tells how many there are, and how many of them are at work.
        """
        self.name = name
        self._home = home
        self._database = database
        self._workers = workers

    @asynccontextmanager
    async def announced(self) -> AsyncIterator[None]:
        """Be there until the block ends.

        Raises:
            SettingsError: a process on another machine is using the database, and it is SQLite, or one with another
                home, and it is not, so that it may lie anywhere.
        """
        await self.sign_on(machine_id())
        try:
            async with in_background(self._stay_for_ever(), "presence"):
                yield
        finally:
            gone = delete(runners).where(runners.c.name == self.name)
            with suppress(DiaServerError):
                await self._database.write(lambda connection: connection.execute(gone))

    async def sign_on(self, machine: str) -> None:
        """Say for the first time that this process is there.

        Raises:
            SettingsError: as for `announced`.
        """

        def work(connection: Connection) -> None:
            one_at_a_time(connection)
            if self._database.is_sqlite:
                _refuse(connection, runners.c.machine != machine, _OTHER_MACHINE)
            else:
                _refuse(connection, runners.c.home.not_in(("", self._home)), _OTHER_HOME)
            forgotten = runners.c.seen_at < database_time() - FORGOTTEN_SECONDS
            connection.execute(delete(runners).where((runners.c.name == self.name) | forgotten))
            connection.execute(
                insert(runners).values(
                    name=self.name, machine=machine, home=self._home, workers=0, busy=0, seen_at=database_time()
                )
            )

        await self._database.write(work)

    async def stay(self) -> None:
        """Say that it is still there."""
        workers, busy = self._workers()
        seen = (
            update(runners)
            .where(runners.c.name == self.name)
            .values(workers=workers, busy=busy, seen_at=database_time())
        )
        await self._database.write(lambda connection: connection.execute(seen))

    async def others(self) -> Mapping[str, tuple[int, int]]:
        """The other processes that are there, each with the number of its workers and of those at work."""
        seen = runners.c.seen_at > database_time() - SILENT_SECONDS
        rows = await self._database.read(select(runners).where(seen, runners.c.name != self.name))
        return {row.name: (row.workers, row.busy) for row in rows}

    async def _stay_for_ever(self) -> None:
        while True:
            with suppress(DiaServerError):  # the database is away, which whoever needs it will tell
                await self.stay()
            await asyncio.sleep(STAY_SECONDS)


def _refuse(connection: Connection, is_other: ColumnElement[bool], reason: str) -> None:
    seen = runners.c.seen_at > database_time() - GONE_SECONDS
    other = connection.execute(select(runners.c.name).where(is_other, seen).limit(1)).scalar()
    if other is not None:
        raise SettingsError(f"'{other}' uses this {reason}. If it is gone, wait {GONE_SECONDS:g} s")
