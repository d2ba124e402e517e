"""The jobs as clients see them: submitted, listed, cancelled, cleared."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, get_args

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError

from dia_server import metrics
from dia_server.database.database import Database
from dia_server.database.tables import database_time, jobs
from dia_server.errors import BadInput, Conflict, Damaged, JobNotFound, QueueFull
from dia_server.jobs.job import FINISHED, Job, JobState, NewJob, Status
from dia_server.settings import Settings

SHOWN = (
    jobs.c.number, jobs.c.id, jobs.c.status, jobs.c.model, jobs.c.voice, jobs.c.request, jobs.c.created_at,
    jobs.c.started_at, jobs.c.completed_at, jobs.c.progress, jobs.c.runner, jobs.c.file, jobs.c.result, jobs.c.error,
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

    async def known(self, kind: str, key: str, request_hash: str) -> Job | None:
        """The job that a key came with before, if it did.

        Raises:
            Conflict: that was another request.
        """
        rows = await self._database.read(_with_key(_hashed(kind, key)))
        return _same(rows[0], request_hash) if rows else None

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
        return (await self._jobs(rows))[0]

    async def listed(
        self,
        kind: str,
        *,
        status: str | None = None,
        voice: str | None = None,
        since: float | None = None,
        limit: int | None = None,
        offset: int = 0,
        places: bool = True,
    ) -> list[Job]:
        """Those that match, the newest first; `since` in seconds since 1970, `places` whether to look at the queue."""
        wanted = select(*SHOWN).where(jobs.c.kind == kind).order_by(jobs.c.number.desc())
        if status is not None:
            wanted = wanted.where(jobs.c.status == status)
        if voice is not None:
            wanted = wanted.where(jobs.c.voice == voice)
        if since is not None:
            wanted = wanted.where(jobs.c.created_at >= since)
        if limit is not None or offset:
            return await self._jobs(await self._database.read(wanted.limit(limit).offset(offset)), places)
        found: list[Job] = []
        # Some at a time: there may be thousands, and others wait.
        page = wanted
        while rows := await self._database.read(page.limit(MOST_AT_ONCE)):
            found += await self._jobs(rows, places)
            page = wanted.where(jobs.c.number < rows[-1].number)
        return found

    async def states(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """How those of these jobs that there are stand."""
        columns = (jobs.c.number, jobs.c.id, jobs.c.status, jobs.c.progress, jobs.c.error)
        rows = await self._database.read(select(*columns).where(jobs.c.id.in_(job_ids)))
        positions = await self._positions(rows)
        return {
            row.id: JobState(
                id=row.id,
                status=row.status,
                progress=row.progress,
                position=positions.get(row.number),
                error=row.error,
            )
            for row in rows
        }

    async def counts(self, kind: str | None = None) -> dict[str, int]:
        """How many jobs of a kind, or of all, there are by status; those that there are none of are left out."""
        wanted = select(jobs.c.status, func.count().label("number")).group_by(jobs.c.status)
        if kind is not None:
            wanted = wanted.where(jobs.c.kind == kind)
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

    async def doom(self, kind: str, job_id: str) -> None:
        """End a job, finished or not, that is to be removed; its key is free again.

        Raises:
            JobNotFound: there is none.
        """
        ended = {"status": "cancelled", "completed_at": database_time(), "payload": b"", "blobs": ""}
        doomed = (
            update(jobs)
            .where(jobs.c.kind == kind, jobs.c.id == job_id)
            .values(ended | {"file": None, "idempotency_key": None})
        )
        if not await self._database.write(lambda connection: connection.execute(doomed).rowcount):
            raise not_found(job_id)

    async def finished(self, kind: str) -> list[str]:
        """The ids of some finished jobs."""
        return await self._ids(jobs.c.kind == kind, jobs.c.status.in_(FINISHED))

    async def aged(self, seconds: float, *, with_file: bool) -> list[str]:
        """The ids of some jobs of any kind that ended so long ago, or of those of them that have a file."""
        is_meant = jobs.c.file.is_not(None) if with_file else true()
        return await self._ids(jobs.c.completed_at <= database_time() - seconds, is_meant)

    async def _ids(self, *conditions: ColumnElement[bool]) -> list[str]:
        rows = await self._database.read(select(jobs.c.id).where(*conditions).limit(MOST_AT_ONCE))
        return [row.id for row in rows]

    async def remove(self, job_ids: Iterable[str]) -> int:
        """Forget finished jobs; returns how many were there."""
        wanted = delete(jobs).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(FINISHED))
        return await self._database.write(lambda connection: connection.execute(wanted).rowcount)

    async def forget_files(self, job_ids: Iterable[str]) -> None:
        """The files of these jobs are gone."""
        wanted = update(jobs).where(jobs.c.id.in_(job_ids)).values(file=None)
        await self._database.write(lambda connection: connection.execute(wanted))

    async def files(self, job_ids: Iterable[str]) -> dict[str, tuple[Status, str | None]]:
        """How those of these jobs stand that there are, and their files, by the jobs' ids."""
        wanted = select(jobs.c.id, jobs.c.status, jobs.c.file).where(jobs.c.id.in_(job_ids))
        return {row.id: (row.status, row.file) for row in await self._database.read(wanted)}

    async def blobs(self) -> set[str]:
        """The names of the blobs that unfinished jobs refer to."""
        rows = await self._database.read(select(jobs.c.blobs).where(jobs.c.blobs != "").distinct())
        return {name for row in rows for name in row.blobs.split()}

    async def _jobs(self, rows: Sequence[Row[Any]], places: bool = True) -> list[Job]:
        positions = await self._positions(rows) if places else {}
        return [_job(row, positions.get(row.number)) for row in rows]

    async def _positions(self, rows: Sequence[Row[Any]]) -> dict[int, int]:
        """The places in the queue of those that still wait, by number, from 1 on."""
        waiting = [row.number for row in rows if row.status == "pending"]
        if not waiting:
            return {}
        pending = select(jobs.c.number).where(jobs.c.status == "pending")
        first, last = min(waiting), max(waiting)
        before = pending.where(jobs.c.number < first).subquery()
        ahead = await self._database.read(select(func.count()).select_from(before))
        within = await self._database.read(
            pending.where(jobs.c.number >= first, jobs.c.number <= last).order_by(jobs.c.number)
        )
        places = {row.number: place for place, row in enumerate(within, ahead[0][0] + 1)}
        return {number: places[number] for number in waiting if number in places}


def not_found(job_id: str) -> JobNotFound:
    """The error for a job that isn't there."""
    return JobNotFound(f"Job '{job_id[:100]}' not found")


def _values(new: NewJob) -> dict[str, Any]:
    key = new.idempotency_key
    return {
        "id": str(uuid.uuid4()),
        "kind": new.kind,
        "model": new.model,
        "status": "pending",
        "voice": new.voice,
        "request": msgspec.json.encode(new.request).decode(),
        "payload": new.payload,
        "blobs": " ".join(new.blobs),
        "idempotency_key": None if key is None else _hashed(new.kind, key),
        "request_hash": new.request_hash,
        "created_at": database_time(),
    }


def _hashed(kind: str, key: str) -> str:
    """A client's key as the table has it."""
    return hashlib.sha256(f"{kind} {key}".encode()).hexdigest()


def _insert(connection: Connection, values: dict[str, Any]) -> Job:
    key = values["idempotency_key"]
    row = None if key is None else connection.execute(_with_key(key)).first()
    if row is not None:
        return _same(row, values["request_hash"])
    return _job(connection.execute(insert(jobs).values(values).returning(*SHOWN)).one())


def _with_key(key: str) -> Select[Any]:
    return select(*SHOWN, jobs.c.request_hash).where(jobs.c.idempotency_key == key)


def _same(row: Row[Any], request_hash: str) -> Job:
    if row.request_hash != request_hash:
        raise Conflict("This Idempotency-Key came with another request before; a new request needs a new key")
    return _job(row)


def _job(row: Row[Any], position: int | None = None) -> Job:
    try:
        request, result = (msgspec.json.decode(each or "{}") for each in (row.request, row.result))
    except msgspec.DecodeError:
        raise Damaged(f"The row of job '{row.id}' in the database can't be read") from None
    return Job(
        id=row.id,
        status=row.status,
        model=row.model,
        voice=row.voice,
        request=request,
        created_at=row.created_at,
        started_at=row.started_at,
        completed_at=row.completed_at,
        progress=row.progress,
        runner=row.runner,
        file=row.file,
        result=result,
        error=row.error,
        position=position,
    )
