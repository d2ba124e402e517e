"""The files that came of jobs: found, removed with their jobs, and swept when their time is over."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from dia_server.background import in_background
from dia_server.errors import DiaServerError, GenerationFailed, NotFound
from dia_server.jobs.job import FINISHED, Job, Status
from dia_server.jobs.store import MOST_AT_ONCE, JobStore
from dia_server.settings import Settings

FOLDER = "tasks"
SWEEP_SECONDS = 60.0
# What an attempt left whose runner died before it could tell; no attempt takes so long to do that.
LOST_SECONDS = 3_600
# With an attempt's number until it is the job's.
_FILE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.\d+)?\.[a-z0-9]+")
_ATTEMPT = re.compile(r".*\.\d+\.[a-z0-9]+")

log = structlog.get_logger(__name__)


class Results:
    """The files in a home's `tasks/`."""

    def __init__(self, store: JobStore, settings: Settings, home: Path) -> None:
        self.home = home
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

    async def delete(self, kind: str, job_id: str) -> None:
        """Forget a job, whatever has become of it, with its file; whoever runs it stops within a second.

        Raises:
            JobNotFound: there is none.
        """
        await self._store.doom(kind, job_id)
        await asyncio.to_thread(self._unlink, [job_id], f"{job_id}.*")
        await self._store.remove([job_id])

    async def sweep(self) -> None:
        """Remove files after `job_retention_hours`, their jobs after twice as long, and what lost attempts left."""
        seconds = self._settings.job_retention_hours * 3_600
        while job_ids := await self._store.aged(seconds, with_file=True):
            await self._store.forget_files(job_ids)
            await asyncio.to_thread(self._unlink, job_ids)
        await self._remove(lambda: self._store.aged(2 * seconds, with_file=False))
        await self._sweep_lost()

    async def _remove(self, some: Callable[[], Awaitable[list[str]]]) -> int:
        count = 0
        while job_ids := await some():
            # Where the database refuses that, no file is gone; where it is done, a file that stays is swept as lost.
            await self._store.forget_files(job_ids)
            await asyncio.to_thread(self._unlink, job_ids)
            count += await self._store.remove(job_ids)
        return count

    async def _sweep_lost(self) -> None:
        if time.monotonic() < self._next_search:
            return
        old = await asyncio.to_thread(self._old_attempts)
        for start in range(0, len(old), MOST_AT_ONCE):
            some = old[start : start + MOST_AT_ONCE]
            known = await self._store.files({job_id for _, job_id in some})
            for path in [path for path, job_id in some if _is_lost(path.name, known.get(job_id))]:
                path.unlink(missing_ok=True)
        self._next_search = time.monotonic() + LOST_SECONDS

    def _old_attempts(self) -> list[tuple[Path, str]]:
        """The files of attempts that ended, one way or another, long ago, with their jobs' ids."""
        before, found = time.time() - LOST_SECONDS, []
        for path, job_id in self._attempts():
            with suppress(FileNotFoundError):  # a runner has given it its job's name
                if path.stat().st_mtime < before:
                    found.append((path, job_id))
        return found

    def _unlink(self, job_ids: Iterable[str], pattern: str = "*") -> None:
        """Remove all that attempts at these jobs have left, by names of this pattern."""
        ids = set(job_ids)
        for path, job_id in self._attempts(pattern):
            if job_id in ids:
                path.unlink(missing_ok=True)

    def _attempts(self, pattern: str = "*") -> Iterator[tuple[Path, str]]:
        """The files of attempts, with their jobs' ids."""
        for path in list(self.folder.glob(pattern)):
            if (found := _FILE.fullmatch(path.name)) and path.is_file():
                yield path, found[1]

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


def _is_lost(name: str, known: tuple[Status, str | None] | None) -> bool:
    """Whether nobody will ask for an old file; `known` is what the database has of its job."""
    if known is None:
        # Another database may have used the home before: what has its job's name for good stays.
        return _ATTEMPT.fullmatch(name) is not None
    status, file = known
    return status in FINISHED and file != name
