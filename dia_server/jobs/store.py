"""The jobs as clients see them: submitted, listed, cancelled, cleared."""

from __future__ import annotations

import hashlib
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, get_args

import msgspec
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dia_server import metrics
from dia_server.database.database import Database
from dia_server.database.tables import database_time, jobs
from dia_server.errors import BadInput, Conflict, JobNotFound, QueueFull
from dia_server.jobs.job import FINISHED, Job, NewJob, Status
from dia_server.settings import Settings

SHOWN = (
    jobs.c.number, jobs.c.id, jobs.c.status, jobs.c.voice, jobs.c.request, jobs.c.created_at, jobs.c.started_at,
    jobs.c.completed_at, jobs.c.progress, jobs.c.runner, jobs.c.file, jobs.c.result, jobs.c.error,
)  # fmt: skip
# Of the number of waiting jobs, which is compared with the limit.
COUNT_SECONDS = 1.0
MOST_AT_ONCE = 500


class JobStore:
    """The table of jobs, of one kind at a time."""

    def __init__(self, database: Database, settings: Settings, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called when there is a new job."""
        self._wake = wake
        self._database = database
        self._settings = settings
        self._waiting = 0
        self._counted = float("-inf")

    async def submit(self, new: NewJob) -> Job:
        """Accept a job; when this returns it is on the disk. A key that came before gets the job of then.

        Raises:
            Conflict: the key came with another request.
            QueueFull: too many wait.
            DatabaseUnavailable, StorageFull: the job was not accepted.
        """
        await self._check_room()
        values = _values(new)
        try:
            job = await self._database.write(lambda connection: _insert(connection, values))
        except IntegrityError:  # the same key at the same moment
            job = await self._database.write(lambda connection: _insert(connection, values))
        self._waiting += 1
        self._wake()
        return job

    async def _check_room(self) -> None:
        if monotonic() - self._counted > COUNT_SECONDS:
            self._counted = monotonic()
            rows = await self._database.read(select(func.count()).where(jobs.c.status == "pending"))
            self._waiting = rows[0][0]
        if self._waiting >= (most := self._settings.max_pending_jobs):
            raise QueueFull(f"{self._waiting} jobs are waiting, allowed are {most}; try again later", retry_after=30)

    async def get(self, kind: str, job_id: str) -> Job:
        """One job.

        Raises:
            JobNotFound: there is none, or it is gone.
        """
        rows = await self._database.read(select(*SHOWN).where(jobs.c.kind == kind, jobs.c.id == job_id))
        if not rows:
            raise not_found(job_id)
        return (await self._with_positions(rows))[0]

    async def listed(
        self,
        kind: str,
        *,
        status: str | None = None,
        voice: str | None = None,
        since: float | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Job]:
        """Those that match, the newest first; `since` in seconds since 1970."""
        wanted = select(*SHOWN).where(jobs.c.kind == kind).order_by(jobs.c.number.desc()).limit(limit).offset(offset)
        if status is not None:
            wanted = wanted.where(jobs.c.status == status)
        if voice is not None:
            wanted = wanted.where(jobs.c.voice == voice)
        if since is not None:
            wanted = wanted.where(jobs.c.created_at >= since)
        return await self._with_positions(await self._database.read(wanted))

    async def by_id(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Those of these jobs that there are."""
        rows = await self._database.read(select(*SHOWN).where(jobs.c.id.in_(job_ids)))
        return {job.id: job for job in await self._with_positions(rows)}

    async def counts(self, kind: str) -> dict[str, int]:
        """How many jobs there are by status; those that there are none of are left out."""
        wanted = select(jobs.c.status, func.count().label("number")).where(jobs.c.kind == kind).group_by(jobs.c.status)
        return {row.status: row.number for row in await self._database.read(wanted)}

    async def measure(self, kind: str) -> None:
        """Tell the metrics how many jobs there are."""
        counts = await self.counts(kind)
        for status in get_args(Status):
            metrics.JOBS.labels(kind, status).set(counts.get(status, 0))

    async def cancel(self, kind: str, job_id: str) -> None:
        """End a job that is not finished; whoever runs it stops within a second.

        Raises:
            JobNotFound: there is none.
            BadInput: it is finished.
        """

        def work(connection: Connection) -> str | None:
            found = connection.execute(
                update(jobs)
                .where(jobs.c.kind == kind, jobs.c.id == job_id, jobs.c.status.not_in(FINISHED))
                .values(status="cancelled", completed_at=database_time(), payload=b"", blobs="")
            )
            if found.rowcount:
                return None
            status: str | None = connection.execute(
                select(jobs.c.status).where(jobs.c.kind == kind, jobs.c.id == job_id)
            ).scalar()
            if status is None:
                raise not_found(job_id)
            return status

        if status := await self._database.write(work):
            raise BadInput(f"Job '{job_id}' is {status}; only a pending or processing one can be cancelled")

    async def finished(
        self, kind: str | None = None, *, older_than: float = 0.0, with_file: bool = False
    ) -> dict[str, str | None]:
        """Some jobs that ended so many seconds ago, of one kind or any: their ids, with the names of their files."""
        wanted = select(jobs.c.id, jobs.c.file).where(jobs.c.status.in_(FINISHED))
        wanted = wanted.where(jobs.c.completed_at <= database_time() - older_than)
        if kind is not None:
            wanted = wanted.where(jobs.c.kind == kind)
        if with_file:
            wanted = wanted.where(jobs.c.file.is_not(None))
        return {row.id: row.file for row in await self._database.read(wanted.limit(MOST_AT_ONCE))}

    async def remove(self, job_ids: Iterable[str]) -> int:
        """Forget finished jobs; returns how many were there."""
        wanted = delete(jobs).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(FINISHED))
        return await self._database.write(lambda connection: connection.execute(wanted).rowcount)

    async def forget_files(self, job_ids: Iterable[str]) -> None:
        """The files of these jobs are gone."""
        wanted = update(jobs).where(jobs.c.id.in_(job_ids)).values(file=None)
        await self._database.write(lambda connection: connection.execute(wanted))

    async def used_files(self, names: Iterable[str]) -> set[str]:
        """Those of these names that are files of jobs."""
        rows = await self._database.read(select(jobs.c.file).where(jobs.c.file.in_(names)))
        return {row.file for row in rows}

    async def blobs(self) -> set[str]:
        """The names of the blobs that unfinished jobs refer to."""
        rows = await self._database.read(select(jobs.c.blobs).where(jobs.c.blobs != "").distinct())
        return {name for row in rows for name in row.blobs.split()}

    async def _with_positions(self, rows: Sequence[Row[Any]]) -> list[Job]:
        waiting = [row.number for row in rows if row.status == "pending"]
        if not waiting:
            return [_job(row) for row in rows]
        pending = select(jobs.c.number).where(jobs.c.status == "pending")
        first, last = min(waiting), max(waiting)
        ahead = await self._database.read(
            select(func.count()).select_from(pending.where(jobs.c.number < first).subquery())
        )
        within = await self._database.read(
            pending.where(jobs.c.number >= first, jobs.c.number <= last).order_by(jobs.c.number)
        )
        numbers = [row.number for row in within]
        return [
            _job(row, position=ahead[0][0] + bisect_right(numbers, row.number) if row.status == "pending" else None)
            for row in rows
        ]


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that isn't there."""
    return JobNotFound(f"Job '{job_id[:100]}' not found")


def _values(new: NewJob) -> dict[str, Any]:
    key = new.idempotency_key
    return {
        "id": str(uuid.uuid4()),
        "kind": new.kind,
        "status": "pending",
        "voice": new.voice,
        "request": msgspec.json.encode(new.request).decode(),
        "payload": new.payload,
        "blobs": " ".join(new.blobs),
        "idempotency_key": None if key is None else hashlib.sha256(f"{new.kind} {key}".encode()).hexdigest(),
        "request_hash": new.request_hash,
        "created_at": database_time(),
    }


def _insert(connection: Connection, values: dict[str, Any]) -> Job:
    key = values["idempotency_key"]
    if key is not None:
        row = connection.execute(_known(key)).first()
        if row is not None:
            if row.request_hash != values["request_hash"]:
                raise Conflict(
                    "This Idempotency-Key came with another request before; send a new key with a new request"
                )
            return _job(row)
    return _job(connection.execute(insert(jobs).values(values).returning(*SHOWN)).one())


def _known(key: str) -> Select[Any]:
    return select(*SHOWN, jobs.c.request_hash).where(jobs.c.idempotency_key == key)


def _job(row: Row[Any], position: int | None = None) -> Job:
    return Job(
        id=row.id,
        status=row.status,
        voice=row.voice,
        request=msgspec.json.decode(row.request),
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        progress=row.progress,
        runner=row.runner,
        file=row.file,
        result={} if row.result is None else msgspec.json.decode(row.result),
        error=row.error,
        position=position,
    )
