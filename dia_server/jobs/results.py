"""The files that came of jobs: found, removed with their jobs, and swept when their time is over."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from dia_server.background import in_background
from dia_server.errors import DiaServerError, GenerationFailed, NotFound
from dia_server.jobs.job import Job
from dia_server.jobs.store import MOST_AT_ONCE, JobStore
from dia_server.settings import Settings

FOLDER = "tasks"
SWEEP_SECONDS = 60.0
# What an attempt left whose runner died before it could tell; no attempt takes so long to do that.
LOST_SECONDS = 3_600
_ATTEMPT = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.\d+\.[a-z0-9]+")

log = structlog.get_logger(__name__)


class Results:
    """The files in a home's `tasks/`."""

    def __init__(self, store: JobStore, settings: Settings, home: Path) -> None:
        self.folder = home / FOLDER
        self._store = store
        self._settings = settings
        self._next_search = 0.0

    def path_of(self, job: Job) -> Path:
        """The file of a completed job.

        Raises:
            NotFound: its time is over.
            GenerationFailed: somebody else has removed it.
        """
        if job.file is None:
            raise NotFound(f"Job '{job.id}' not found (result expired)")
        path = self.folder / job.file
        if not path.is_file():
            raise GenerationFailed(f"The result of job '{job.id}' is lost: the file {FOLDER}/{job.file} is gone")
        return path

    async def clear(self, kind: str) -> int:
        """Forget all finished jobs of a kind, with their files; returns how many there were."""
        return await self._remove(kind, older_than=0.0)

    async def sweep(self) -> None:
        """Remove files after `job_retention_hours`, their jobs after twice as long, and what lost attempts left."""
        seconds = self._settings.job_retention_hours * 3_600
        while files := await self._store.finished(older_than=seconds, with_file=True):
            await asyncio.to_thread(self._unlink, files.values())
            await self._store.forget_files(files)
        await self._remove(None, older_than=2 * seconds)
        await self._sweep_lost()

    async def _remove(self, kind: str | None, older_than: float) -> int:
        count = 0
        # Files first: a job whose file is still there can be removed again, a file without its job can't be found.
        while files := await self._store.finished(kind, older_than=older_than):
            await asyncio.to_thread(self._unlink, files.values())
            count += await self._store.remove(files)
        return count

    async def _sweep_lost(self) -> None:
        if time.monotonic() < self._next_search:
            return
        self._next_search = time.monotonic() + LOST_SECONDS
        old = await asyncio.to_thread(self._old_attempts)
        for start in range(0, len(old), MOST_AT_ONCE):
            some = old[start : start + MOST_AT_ONCE]
            used = await self._store.used_files(some)
            await asyncio.to_thread(self._unlink, [name for name in some if name not in used])

    def _old_attempts(self) -> list[str]:
        """The names of files by attempts that ended, one way or another, long ago."""
        before = time.time() - LOST_SECONDS
        return [
            path.name
            for path in self.folder.glob("*")
            if _ATTEMPT.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < before
        ]

    def _unlink(self, names: Iterable[str | None]) -> None:
        for name in names:
            if name is not None:
                (self.folder / name).unlink(missing_ok=True)

    @asynccontextmanager
    async def swept(self) -> AsyncIterator[None]:
        """Sweep once a minute until the block ends."""
        async with in_background(self._sweep_for_ever(), "results"):
            yield

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (DiaServerError, OSError) as error:
                log.warning("results can't be swept", reason=str(error))
            await asyncio.sleep(SWEEP_SECONDS)
