"""The files that came of jobs: found, removed with their jobs, and swept when their time is over."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
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
        return await self._remove(lambda: self._store.finished(kind))

    async def sweep(self) -> None:
        """Remove files after `job_retention_hours`, their jobs after twice as long, and what lost attempts left."""
        seconds = self._settings.job_retention_hours * 3_600
        while files := await self._store.aged(seconds, with_file=True):
            await asyncio.to_thread(self._unlink, files.values())
            await self._store.forget_files(files)
        await self._remove(lambda: self._store.aged(2 * seconds, with_file=False))
        await self._sweep_lost()

    async def _remove(self, some: Callable[[], Awaitable[Mapping[str, str | None]]]) -> int:
        count = 0
        # Files first: a job whose file is still there can be removed again, a file without its job can't be found.
        while files := await some():
            await asyncio.to_thread(self._unlink, files.values())
            count += await self._store.remove(files)
        return count

    async def _sweep_lost(self) -> None:
        if time.monotonic() < self._next_search:
            return
        self._next_search = time.monotonic() + LOST_SECONDS
        old = await asyncio.to_thread(self._old_attempts)
        names = list(old)
        for start in range(0, len(names), MOST_AT_ONCE):
            some = {name: old[name] for name in names[start : start + MOST_AT_ONCE]}
            wanted = await self._store.wanted_files(some)
            await asyncio.to_thread(self._unlink, some.keys() - wanted)

    def _old_attempts(self) -> dict[str, str]:
        """The files of attempts that ended, one way or another, long ago: their names, with their jobs' ids."""
        before = time.time() - LOST_SECONDS
        return {
            path.name: found[1]
            for path in self.folder.glob("*")
            if (found := _ATTEMPT.fullmatch(path.name)) and path.is_file() and path.stat().st_mtime < before
        }

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
            except Exception:
                log.exception("results can't be swept")
            await asyncio.sleep(SWEEP_SECONDS)
