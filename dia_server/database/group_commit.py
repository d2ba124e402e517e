"""Writes that share transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from dia_server.database.troubles import is_trouble, translated
from dia_server.errors import DatabaseUnavailable

MOST_AT_ONCE = 200

Work = Callable[[Connection], Any]
Flush = Callable[[], object]
Result = TypeVar("Result")


class GroupCommit:
    """SQLite has one writer at a time and waits for the disk with each commit; what waits meanwhile shares the next."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[tuple[Work, Flush | None, asyncio.Future[Any]]] = []
        self._committer: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Connection], Result], flush: Flush | None) -> Result:
        """What `work` returns, once its transaction is on the disk; equal flushes of a transaction run once."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, flush, future))
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_all(), name="database")
        return await future

    async def close(self) -> None:
        """Wait for what has been given."""
        if self._committer is not None:
            await self._committer

    async def _commit_all(self) -> None:
        while self._waiting:
            works, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            works = [each for each in works if not each[2].done()]
            try:
                with translated():
                    async with self._engine.begin() as connection:
                        outcomes = await connection.run_sync(_run_each, [work for work, _, _ in works])
                        for flush in {flush for _, flush, _ in works if flush is not None}:
                            await asyncio.to_thread(flush)
            except DatabaseUnavailable as error:
                # Whoever came in the meantime has waited as long, or will in vain.
                works, self._waiting = works + self._waiting, []
                outcomes = [error] * len(works)
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                outcomes = [error] * len(works)
            for (_, _, future), outcome in zip(works, outcomes, strict=True):
                _settle(future, outcome)


def _run_each(connection: Connection, works: list[Work]) -> list[Any]:
    """What each returns, or its error, which leaves the others alone."""
    outcomes: list[Any] = []
    for work in works:
        try:
            with connection.begin_nested():
                outcomes.append(work(connection))
        except Exception as error:  # noqa: BLE001 - it is for whoever gave the work
            # SQLite may have ended the transaction itself, so that its savepoint is missing on the way out.
            for each in (error, error.__context__):
                if isinstance(each, Exception) and is_trouble(each):
                    raise each from None
            outcomes.append(error)
    return outcomes


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return  # nobody waits any more
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
