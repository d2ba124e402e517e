"""Jobs as they change, for those who watch them: one look at the table for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import structlog

from dia_server.errors import DiaServerError, Draining
from dia_server.jobs.job import FINISHED, JobState
from dia_server.jobs.store import JobStore

LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Feed:
    """Looks at the watched jobs twice a second while there are any; runners may be other processes."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._watchers: dict[asyncio.Queue[JobState | None], JobState] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def follow(self, kind: str, job_id: str) -> AsyncGenerator[JobState, None]:
        """The job as it is, and whenever it has changed, until it is finished, gone, or the feed is closed.

        Raises:
            JobNotFound: there is no such job.
            Draining: the feed is closed.
        """
        job = await self._store.get(kind, job_id)
        if self._is_closed:
            raise Draining("The server is shutting down; try again in a moment")
        told: JobState | None = job.state
        queue: asyncio.Queue[JobState | None] = asyncio.Queue()
        self._watchers[queue] = job.state
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_while_watched(), name="job feed")
        try:
            while told is not None:
                yield told
                told = None if told.status in FINISHED else await queue.get()
        finally:
            del self._watchers[queue]

    def close(self) -> None:
        """End all that follow, and take no more."""
        self._is_closed = True
        for queue in self._watchers:
            queue.put_nowait(None)

    async def _look_while_watched(self) -> None:
        while self._watchers:
            # Whoever comes while the table is read is for the next look.
            watchers = dict(self._watchers)
            found = await self._states({state.id for state in watchers.values()})
            if found is not None:
                self._tell(watchers, found)
            await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, watchers: dict[asyncio.Queue[JobState | None], JobState], found: dict[str, JobState]) -> None:
        for queue, last in watchers.items():
            state = found.get(last.id)
            if state != last and queue in self._watchers:
                self._watchers[queue] = state or last
                queue.put_nowait(state)

    async def _states(self, job_ids: set[str]) -> dict[str, JobState] | None:
        """How these jobs stand; None while that can't be known."""
        try:
            return await self._store.states(job_ids)
        except DiaServerError:
            return None  # the database is away; its return will show
        except Exception:
            log.exception("jobs can't be watched")
            return None
