"""Jobs in the database: accepted once, claimed in order, and written only by whoever has the lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from dia_server.database.database import Database, open_database
from dia_server.database.tables import jobs, metadata, runners
from dia_server.errors import BadInput, Conflict, Draining, JobNotFound, NotFound, QueueFull, SettingsError
from dia_server.jobs.feed import Feed
from dia_server.jobs.instance import machine_id
from dia_server.jobs.job import Job, JobState, Lease, NewJob
from dia_server.jobs.leases import Leases
from dia_server.jobs.presence import FORGOTTEN_SECONDS, GONE_SECONDS, Presence
from dia_server.jobs.results import Results
from dia_server.jobs.store import JobStore
from dia_server.settings import Settings

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
        return await leases.claim(["k"], most)

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

    def presence(self, name: str, *crew: int) -> Presence:
        return Presence(self.database, name, lambda: (crew[0], crew[1]))

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


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(Settings(database_url=database_url), tmp_path) as opened:
        yield opened


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> World:
    return World(database, tmp_path)


async def test_jobs_are_claimed_in_the_order_of_acceptance(world: World) -> None:
    accepted = [await world.submit(b"%d" % number) for number in range(4)]
    assert [(await world.get(job)).position for job in accepted] == [1, 2, 3, 4]
    claimed = await world.claim(world.ann, 3)
    assert [lease.payload for lease in claimed] == [b"0", b"1", b"2"]
    assert [(await world.get(job)).position for job in accepted] == [None, None, None, 1]
    assert [(await world.get(job)).runner for job in accepted] == ["ann", "ann", "ann", None]


async def test_lists_have_the_newest_first_and_what_was_asked_for(world: World) -> None:
    accepted = [await world.submit(b"%d" % number, voice=("a", "b")[number % 2]) for number in range(6)]
    ids = [job.id for job in reversed(accepted)]

    async def listed(**filters: Any) -> list[str]:
        return [job.id for job in await world.store.listed("k", **filters)]

    assert await listed() == ids
    assert await listed(limit=2, offset=1) == ids[1:3]
    assert await listed(voice="b") == ids[::2]
    await world.claim(world.ann, 2)
    assert await listed(status="processing") == ids[4:]
    assert await listed(status="pending", voice="a", limit=1) == ids[1:2]
    await world.age(created_at=100.0)
    late = await world.submit()
    assert await listed(since=late.created_at - 50) == [late.id]
    assert await world.store.listed("other") == []
    assert await world.store.counts("k") == {"pending": 5, "processing": 2}


async def test_positions_count_all_who_wait_before(world: World) -> None:
    first, other, last = [await world.submit(voice=voice) for voice in ("a", "b", "a")]
    assert [(job.id, job.position) for job in await world.store.listed("k", voice="a")] == [(last.id, 3), (first.id, 1)]
    await world.store.cancel("k", other.id)
    assert (await world.get(last)).position == 2


async def test_a_key_that_came_before_gets_the_job_of_then(world: World) -> None:
    first = await world.submit(idempotency_key="key", request_hash="one")
    assert (await world.submit(idempotency_key="key", request_hash="one")).id == first.id
    with pytest.raises(Conflict, match="another request"):
        await world.submit(idempotency_key="key", request_hash="two")
    assert (await world.submit(idempotency_key="other", request_hash="two")).id != first.id
    await world.claim(world.ann)
    assert (await world.submit(idempotency_key="key", request_hash="one")).status == "processing"


async def test_one_key_many_times_at_once_is_one_job(world: World) -> None:
    same = [world.submit(idempotency_key="key", request_hash="one") for _ in range(20)]
    assert len({job.id for job in await asyncio.gather(*same)}) == 1
    assert await world.store.counts("k") == {"pending": 1}


async def test_a_queue_that_is_full_takes_no_more(world: World) -> None:
    for _ in range(20):
        await world.submit()
    with pytest.raises(QueueFull, match=r"20 jobs .* allowed are 20"):
        await world.submit()
    assert await world.store.counts("k") == {"pending": 20}


async def test_what_is_not_finished_can_be_cancelled(world: World) -> None:
    running, waiting, done = [await world.submit(blobs=("b.wav",)) for _ in range(3)]
    (lease,) = await world.claim(world.ann)
    for job in (running, waiting):
        await world.store.cancel("k", job.id)
        row = await world.row(job)
        assert (row["status"], row["payload"], row["blobs"]) == ("cancelled", b"", "")
        assert row["completed_at"] >= row["created_at"]
        with pytest.raises(BadInput, match="is cancelled; only"):
            await world.store.cancel("k", job.id)
    assert await world.ann.held([lease]) == set()
    await world.finish(world.ann)
    with pytest.raises(BadInput, match="is completed; only"):
        await world.store.cancel("k", done.id)
    for kind, job_id in (("k", "nothing"), ("other", done.id)):
        with pytest.raises(JobNotFound):
            await world.store.cancel(kind, job_id)


async def test_blobs_are_kept_until_their_job_is_done(world: World) -> None:
    await world.submit(blobs=("a.wav", "b.wav"))
    await world.submit(blobs=("b.wav",))
    assert await world.store.blobs() == {"a.wav", "b.wav"}
    await world.finish(world.ann)
    assert await world.store.blobs() == {"b.wav"}
    (lease,) = await world.claim(world.ann)
    assert await world.store.blobs() == {"b.wav"}
    assert await world.ann.fail(lease, "no")
    assert await world.store.blobs() == set()


async def test_a_lease_that_ended_writes_nothing(world: World) -> None:
    await world.submit()
    (late,) = await world.claim(world.ann)
    await world.age(lease_until=1_000)
    await world.ben.expire()
    (current,) = await world.claim(world.ben)
    await world.ben.renew({current: 0.25})
    before = await world.row(late)
    assert await world.ann.held([late]) == set()
    assert not await world.ann.complete(late, "late.wav", {})
    assert not await world.ann.fail(late, "late")
    await world.ann.renew({late: 0.9})
    await world.ann.give_back(late, "later", blame=True)
    await world.ann.take_over()
    await world.ann.excuse()
    await world.ann.expire()
    assert await world.row(late) == before
    assert (before["status"], before["runner"], before["progress"]) == ("processing", "ben", 0.25)
    assert await world.ben.complete(current, "good.wav", {})
    assert not await world.ann.complete(late, "late.wav", {})
    assert (await world.get(late)).file == "good.wav"


async def test_a_late_runner_changes_nothing_of_a_cancelled_job(world: World) -> None:
    job = await world.submit()
    (lease,) = await world.claim(world.ann)
    await world.store.cancel("k", job.id)
    before = await world.row(job)
    assert not await world.ann.complete(lease, "late.wav", {})
    assert not await world.ann.fail(lease, "late")
    await world.ann.renew({lease: 0.9})
    await world.ann.give_back(lease, "later", blame=False)
    assert await world.row(job) == before


async def test_who_completes_a_job_again_is_told_that_it_is_done(world: World) -> None:
    """The first answer may have been lost with the connection, and the file must stay."""
    await world.submit()
    (lease,) = await world.claim(world.ann)
    assert await world.ann.complete(lease, "file.wav", {"size": 1})
    first = await world.get(lease)
    assert await world.ann.complete(lease, "file.wav", {"size": 1})
    assert msgspec.structs.replace(await world.get(lease), completed_at=first.completed_at) == first


async def test_lost_runners_count_until_the_job_is_given_up(world: World) -> None:
    job = await world.submit()
    for attempt in (1, 2):
        (lease,) = await world.claim(world.ann)
        assert lease.attempts == attempt
        await world.ben.expire()
        assert (await world.get(job)).status == "processing"
        await world.age(lease_until=1_000)
        await world.ben.expire()
    failed = await world.get(job)
    assert (failed.status, failed.file) == ("failed", None)
    assert failed.error == "2 runners were lost over this job; it was given up"


async def test_what_is_nobodys_fault_does_not_count(world: World) -> None:
    await world.submit()
    for _ in range(5):
        (lease,) = await world.claim(world.ann)
        await world.ann.give_back(lease, "later", blame=False)
        assert await world.claim(world.ann) == []
        await world.age(not_before=1_000)
        (lease,) = await world.claim(world.ann)
        assert await world.ben.take_over() == 0
        assert await world.ann.take_over() == 1
    (lease,) = await world.claim(world.ann)
    await world.age(lease_until=1_000)
    # The database was away; its return gives the holder time again.
    await world.ben.excuse()
    await world.ben.expire()
    assert await world.ann.held([lease]) == {lease.number}
    await world.ann.give_back(lease, "later", blame=False)
    assert (await world.row(lease))["attempts"] == 0
    await world.age(not_before=1_000)
    (lease,) = await world.claim(world.ann)
    await world.ann.give_back(lease, "later", blame=True)
    assert (await world.row(lease))["attempts"] == 1


async def test_no_job_is_claimed_twice(world: World, database_url: str, tmp_path: Path) -> None:
    for _ in range(20):
        await world.submit()
    async with open_database(Settings(database_url=database_url), tmp_path) as elsewhere:
        runners_there = [world.ann, Leases(elsewhere, SETTINGS, "cleo"), world.ben, Leases(elsewhere, SETTINGS, "dan")]
        claimed = await asyncio.gather(*(world.claim(leases, 2) for leases in runners_there * 2))
    numbers = [lease.number for leases in claimed for lease in leases]
    assert len(numbers) == len(set(numbers))
    assert all(len(leases) <= 2 for leases in claimed)
    assert await world.store.counts("k") == {"pending": 20 - len(numbers), "processing": len(numbers)}


async def test_results_expire_before_their_jobs(world: World) -> None:
    await world.submit()
    done = await world.finish(world.ann)
    assert world.results.path_of(done).read_bytes() == b"sound"
    await world.results.sweep()
    assert world.results.path_of(await world.get(done)).exists()
    path = world.results.path_of(done)
    await world.age(completed_at=25 * 3_600)
    await world.results.sweep()
    assert not path.exists()
    with pytest.raises(NotFound, match=r"not found \(result expired\)"):
        world.results.path_of(await world.get(done))
    await world.age(completed_at=25 * 3_600)
    await world.results.sweep()
    with pytest.raises(JobNotFound):
        await world.get(done)


async def test_clearing_takes_what_is_finished_with_its_files(world: World) -> None:
    kept = world.results.folder / "mine.wav"
    kept.write_bytes(b"mine")
    for _ in range(3):
        await world.submit()
    await world.finish(world.ann)
    await world.store.cancel("k", (await world.submit()).id)
    (running,) = await world.claim(world.ann)
    assert await world.results.clear("other") == 0
    assert await world.results.clear("k") == 2
    assert await world.store.counts("k") == {"pending": 1, "processing": 1}
    assert list(world.results.folder.iterdir()) == [kept]
    assert await world.ann.held([running]) == {running.number}


async def test_who_watches_a_job_sees_it_to_its_end(world: World) -> None:
    job = await world.submit()
    seen = []
    async for state in Feed(world.store).follow("k", job.id):
        seen.append(state.status)
        match state.status:
            case "pending":
                (lease,) = await world.claim(world.ann)
            case "processing":
                await world.ann.complete(lease, None, {})
    assert seen == ["pending", "processing", "completed"]


async def test_who_watches_a_job_that_is_removed_is_let_go(world: World) -> None:
    job = await world.submit()
    seen = []
    async for state in Feed(world.store).follow("k", job.id):
        seen.append(state.status)
        gone = jobs.delete()
        await world.database.write(lambda connection, gone=gone: connection.execute(gone))
    assert seen == ["pending"]


async def test_who_comes_while_others_are_told_is_told_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await world.submit(), await world.submit()
    feed, reading, later = Feed(world.store), asyncio.Event(), asyncio.Event()
    states = world.store.states

    async def slow(job_ids: set[str]) -> dict[str, JobState]:
        found = await states(job_ids)
        reading.set()
        await later.wait()
        return found

    monkeypatch.setattr(world.store, "states", slow)
    async with aclosing(feed.follow("k", first.id)) as early, aclosing(feed.follow("k", second.id)) as late:
        await anext(early)
        await reading.wait()
        assert (await anext(late)).status == "pending"
        later.set()
        await world.claim(world.ann, 2)
        assert [(await anext(each)).status for each in (early, late)] == ["processing"] * 2


async def test_a_closed_feed_lets_all_go_and_takes_no_more(world: World) -> None:
    job = await world.submit()
    feed = Feed(world.store)
    async for _ in feed.follow("k", job.id):
        feed.close()
    with pytest.raises(Draining):
        await anext(feed.follow("k", job.id))


async def test_the_processes_that_are_there_are_known(world: World) -> None:
    ann, ben = world.presence("ann", 2, 1), world.presence("ben", 3, 2)
    async with ann.announced(), ben.announced():
        await ben.sign_on(machine_id())  # it has been killed, and started again
        await ben.stay()
        assert await ann.others() == {"ben": (3, 2)}
        await world.lose_sight()
        assert await ann.others() == {}
        await world.lose_sight(FORGOTTEN_SECONDS)
        await world.presence("cleo", 1, 0).sign_on(machine_id())
        names = await world.database.read(select(runners.c.name))
        assert [row.name for row in names] == ["cleo"]
    async with ben.announced():
        pass
    assert await ann.others() == {"cleo": (0, 0)}


async def test_only_postgresql_is_shared_by_machines(world: World) -> None:
    ann, ben = world.presence("ann", 1, 0), world.presence("ben", 1, 0)
    await ann.sign_on("here")
    if not world.database.is_sqlite:
        await ben.sign_on("there")
        return
    with pytest.raises(SettingsError, match="'ann' uses this SQLite database from another machine"):
        await ben.sign_on("there")
    await world.lose_sight()
    await ben.sign_on("there")
    # The one that was away for so long goes on, since its leases tell whose jobs are whose.
    await ann.stay()


async def test_a_write_that_goes_wrong_harms_no_other(database: Database) -> None:
    async def write(statement: str) -> Any:
        return await database.write(lambda connection: connection.execute(text(statement)).rowcount)

    outcomes = await asyncio.gather(
        write("UPDATE jobs SET progress = 1"),
        write("UPDATE nothing SET progress = 1"),
        write("INSERT INTO runners (name) VALUES ('ann')"),
        write("UPDATE jobs SET progress = 1"),
        return_exceptions=True,
    )
    assert outcomes[0] == outcomes[3] == 0
    assert isinstance(outcomes[1], DBAPIError)
    assert isinstance(outcomes[2], IntegrityError)


async def test_what_somebody_wrote_is_in_no_message(database: Database) -> None:
    values = dict.fromkeys(("name", "machine", "workers", "busy", "seen_at"), "PRIVATE")
    with pytest.raises(Exception, match="runners") as raised:
        await database.write(lambda connection: connection.execute(runners.insert(), [values, {"name": "PRIVATE"}]))
    assert "PRIVATE" not in str(raised.value)


async def test_the_migrations_make_the_tables_that_the_code_expects(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, {"compare_type": True}), metadata)

    async with database.writing.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_schema_of_a_newer_version_is_refused(database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url)
    async with open_database(settings, tmp_path) as database:
        newer = text("UPDATE alembic_version SET version_num = '9999'")
        await database.write(lambda connection: connection.execute(newer))
    with pytest.raises(SettingsError, match="schema 9999, made by a newer dia-server"):
        async with open_database(settings, tmp_path):
            pass


async def test_several_processes_may_make_the_tables_at_once(database_url: str, tmp_path: Path) -> None:
    async def use() -> int:
        async with open_database(Settings(database_url=database_url), tmp_path) as database:
            return len(await database.read(select(jobs)))

    assert await asyncio.gather(*(use() for _ in range(4))) == [0, 0, 0, 0]
