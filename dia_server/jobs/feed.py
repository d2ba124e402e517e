"""Jobs as they change, for those who watch them: one look at the table for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dia_server.errors import DiaServerError
from dia_server.jobs.job import FINISHED, Job
from dia_server.jobs.store import JobStore

LOOK_SECONDS = 0.5


class Feed:
    """Looks at the watched jobs twice a second while there are any; runners may be other processes."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._watchers: dict[asyncio.Queue[Job | None], str] = {}
        self._looking: asyncio.Task[None] | None = None

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """The job as it is, and whenever it has changed, until it is finished, gone, or the feed is closed."""
        queue: asyncio.Queue[Job | None] = asyncio.Queue()
        self._watchers[queue] = job.id
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_ever(), name="job feed")
        try:
            told: Job | None = job
            while told is not None:
                yield told
                if told.status in FINISHED:
                    return
                last = told
                while (told := await queue.get()) == last:
                    pass
        finally:
            del self._watchers[queue]
            if not self._watchers:
                self.close()

    def close(self) -> None:
        """End all that follow."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        for queue in self._watchers:
            queue.put_nowait(None)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                found = await self._store.by_id(set(self._watchers.values()))
            except DiaServerError:
                continue  # the database is away; its return will show
            for queue, job_id in self._watchers.items():
                queue.put_nowait(found.get(job_id))
