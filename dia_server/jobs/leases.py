"""The jobs as runners see them: claimed with a lease, and written only by whoever has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, not_, or_, select, update

from dia_server.database.database import Database
from dia_server.database.tables import database_time, jobs
from dia_server.jobs.job import Lease, Wanted
from dia_server.settings import Settings

# Until a job that couldn't be done is tried again: doubled with each try, so that it keeps no other waiting.
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 2.0, 60.0

_BLAMELESS = case((jobs.c.attempts > 0, jobs.c.attempts - 1), else_=0)
_IS_EXPIRED = and_(jobs.c.status == "processing", jobs.c.lease_until < database_time())
_IS_WAITING = and_(jobs.c.status == "pending", jobs.c.not_before <= database_time())
_WAITING_AGAIN: dict[str, Any] = {"status": "pending", "lease_until": None, "progress": 0.0}


class Leases:
    """One runner's leases."""

    def __init__(self, database: Database, settings: Settings, runner: str) -> None:
        self._database = database
        self._settings = settings
        self.runner = runner

    async def has_waiting(self, wanted: Wanted) -> bool:
        """Whether there is something to claim."""
        return bool(await self._database.read(_any_waiting(wanted)))

    async def claim(self, wanted: Wanted, most: int) -> list[Lease]:
        """Take the oldest waiting jobs, as many as there are and no more than `most`."""
        oldest = (
            select(jobs.c.number)
            .where(_waits(wanted))
            .order_by(jobs.c.number)
            .limit(most)
            .with_for_update(skip_locked=True)
            # PostgreSQL may run a mere subquery once for each row, and claim more than `most`.
            .cte("oldest")
        )
        take = (
            update(jobs)
            .where(jobs.c.number.in_(select(oldest.c.number)))
            .values(
                status="processing",
                runner=self.runner,
                lease=jobs.c.lease + 1,
                lease_until=self._lease_end(),
                attempts=jobs.c.attempts + 1,
                error=None,
                started_at=func.coalesce(jobs.c.started_at, database_time()),
            )
            .returning(
                jobs.c.number, jobs.c.id, jobs.c.kind, jobs.c.model, jobs.c.lease.label("token"), jobs.c.attempts,
                jobs.c.payload,
            )
        )  # fmt: skip
        rows = await self._database.write(lambda connection: connection.execute(take).all())
        return sorted((Lease(**row._mapping) for row in rows), key=lambda lease: lease.number)  # noqa: SLF001 - the documented name

    async def held(self, leases: Iterable[Lease]) -> set[int]:
        """The numbers of those leases that still count; a job may have been cancelled, or be another runner's."""
        wanted = select(jobs.c.number).where(or_(*(_is_ours(lease) for lease in leases)))
        return {row.number for row in await self._database.read(wanted)}

    async def renew(self, progress: Mapping[Lease, float]) -> None:
        """Keep leases, and tell how far their jobs have got."""

        def work(connection: Connection) -> None:
            for lease, share in progress.items():
                connection.execute(
                    update(jobs).where(_is_ours(lease)).values(lease_until=self._lease_end(), progress=share)
                )

        await self._database.write(work)

    async def complete(
        self,
        lease: Lease,
        file: str | None,
        result: object,
        publish: Callable[[], object] = lambda: None,
        flush: Callable[[], object] | None = None,
    ) -> bool:
        """The job is done; False if it isn't this runner's any more, so that nothing was written.

        Before anybody sees that, `publish` gives the file its name, and `flush`, on a thread, brings that name to the
        disk; both may be called again.
        """
        details = msgspec.json.encode(result).decode()
        done = {"status": "completed", "file": file, "result": details, "progress": 1.0}
        return await self._finish(lease, done, publish, flush)

    async def fail(self, lease: Lease, error: str) -> bool:
        """The job can't be done; False likewise."""
        return await self._finish(lease, {"status": "failed", "error": _holdable(error)})

    async def _finish(
        self,
        lease: Lease,
        values: Mapping[str, Any],
        publish: Callable[[], object] = lambda: None,
        flush: Callable[[], object] | None = None,
    ) -> bool:
        # Written again where the first answer was lost with the connection.
        statuses = ("processing", values["status"])
        is_ours = and_(jobs.c.number == lease.number, jobs.c.lease == lease.token, jobs.c.status.in_(statuses))
        done = (
            update(jobs)
            .where(is_ours)
            .values(completed_at=database_time(), lease_until=None, payload=b"", blobs="", **values)
        )

        def work(connection: Connection) -> bool:
            is_done = bool(connection.execute(done).rowcount)
            if is_done:
                publish()
            return is_done

        return await self._database.write(work, flush)

    async def give_back(self, lease: Lease, reason: str, *, blame: bool) -> None:
        """Let the job be run again after a while; the attempt counts if the job is to blame for its end."""
        pause = min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(lease.token - 1, 10))
        back = update(jobs).where(_is_ours(lease)).values(_WAITING_AGAIN | {"not_before": database_time() + pause})
        back = back.values(error=_holdable(reason))
        if not blame:
            back = back.values(attempts=_BLAMELESS)
        await self._database.write(lambda connection: connection.execute(back))

    async def take_over(self) -> int:
        """Give back what an earlier process of this runner's name left behind; returns how many jobs those were."""
        back = (
            update(jobs)
            .where(jobs.c.status == "processing", jobs.c.runner == self.runner)
            .values(attempts=_BLAMELESS, **_WAITING_AGAIN)
        )
        return await self._database.write(lambda connection: connection.execute(back).rowcount)

    async def expire(self) -> None:
        """Give jobs back whose runners, other ones, have not been heard of, or give those jobs up."""
        most = self._settings.job_max_attempts
        is_over = jobs.c.attempts >= most
        expired = and_(_IS_EXPIRED, jobs.c.runner != self.runner)
        reason = f"{most} runners were lost over this job; it was given up"

        def work(connection: Connection) -> None:
            connection.execute(
                update(jobs)
                .where(expired, is_over)
                .values(status="failed", error=reason, completed_at=database_time(), payload=b"", blobs="")
            )
            connection.execute(update(jobs).where(expired).values(**_WAITING_AGAIN))

        await self._database.write(work)

    async def excuse(self) -> None:
        """The database was away, so that leases ended without anybody's fault: give their holders time again."""
        longer = update(jobs).where(_IS_EXPIRED).values(lease_until=self._lease_end(), attempts=_BLAMELESS)
        await self._database.write(lambda connection: connection.execute(longer))

    def _lease_end(self) -> ColumnElement[float]:
        return database_time() + self._settings.job_lease_seconds


@lru_cache(maxsize=64)
def _any_waiting(wanted: Wanted) -> Select[int]:
    """A job to claim, if there is one; kept, since building the statement takes as long as running it."""
    return select(jobs.c.number).where(_waits(wanted)).limit(1)


def _waits(wanted: Wanted) -> ColumnElement[bool]:
    is_of_models = jobs.c.model.in_(wanted.models)
    return and_(_IS_WAITING, jobs.c.kind.in_(wanted.kinds), not_(is_of_models) if wanted.others else is_of_models)


def _holdable(text: str) -> str:
    """PostgreSQL can't hold a NUL."""
    return text.replace("\0", "")


def _is_ours(lease: Lease) -> ColumnElement[bool]:
    return and_(jobs.c.number == lease.number, jobs.c.lease == lease.token, jobs.c.status == "processing")
