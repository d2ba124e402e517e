"""Jobs in a database, with all who write there at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from dia_server.database.database import Database
from dia_server.database.tables import jobs, runners
from dia_server.jobs.job import Job, Lease, NewJob, Wanted
from dia_server.jobs.leases import Leases
from dia_server.jobs.presence import GONE_SECONDS, Presence
from dia_server.jobs.results import Results
from dia_server.jobs.store import JobStore
from dia_server.settings import Settings

ANY = Wanted(kinds=("k",), others=True)
SETTINGS = Settings(max_pending_jobs=20, job_max_attempts=2)


class World:
    """A database with jobs, as a server and several runners see it."""

    def __init__(self, database: Database, home: Path) -> None:
        self.database = database
        self.store = JobStore(database, SETTINGS)
        self.results = Results(self.store, SETTINGS, home)
        self.results.folder.mkdir()
        self.ann = Leases(database, SETTINGS, "ann")
        self.ben = Leases(database, SETTINGS, "ben")

    async def submit(self, payload: bytes = b"p", **fields: Any) -> Job:
        return await self.store.submit(
            NewJob(**{"kind": "k", "voice": None, "request": {"n": payload.decode()}, "payload": payload, **fields})
        )

    async def claim(self, leases: Leases, most: int = 1) -> list[Lease]:
        return await leases.claim(ANY, most)

    async def get(self, job: Job | Lease) -> Job:
        return await self.store.get("k", job.id)

    async def row(self, job: Job | Lease) -> dict[str, Any]:
        """All that the table has of it."""
        rows = await self.database.read(select(jobs).where(jobs.c.id == job.id))
        return rows[0]._asdict()

    async def age(self, **columns: float) -> None:
        """Let all of these times be so many seconds earlier."""
        earlier = update(jobs).values({name: jobs.c[name] - seconds for name, seconds in columns.items()})
        await self.database.write(lambda connection: connection.execute(earlier))

    def presence(self, name: str, *crew: int, home: str = "home") -> Presence:
        return Presence(self.database, name, home, lambda: (crew[0], crew[1]))

    async def lose_sight(self, seconds: float = GONE_SECONDS) -> None:
        """Let it be so long ago that a process said that it is there."""
        older = update(runners).values(seen_at=runners.c.seen_at - seconds)
        await self.database.write(lambda connection: connection.execute(older))

    async def finish(self, leases: Leases, content: bytes = b"sound") -> Job:
        """Let the oldest one be completed, with a file."""
        (lease,) = await self.claim(leases)
        file = f"{lease.id}.{lease.token}.wav"
        (self.results.folder / file).write_bytes(content)
        assert await leases.complete(lease, file, {"size": len(content)})
        return await self.get(lease)
