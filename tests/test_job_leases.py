"""Leases: whoever has one writes the job, late ones change nothing, and lost ones count; and who is there at all."""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select

from dia_server.database.database import open_database
from dia_server.database.tables import runners
from dia_server.errors import DatabaseUnavailable, SettingsError
from dia_server.jobs.instance import home_id, machine_id
from dia_server.jobs.leases import Leases
from dia_server.jobs.presence import FORGOTTEN_SECONDS
from dia_server.settings import Settings
from job_world import SETTINGS, World


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


async def test_a_files_name_is_on_the_disk_before_its_job_is_done(world: World) -> None:
    await world.submit()
    (lease,) = await world.claim(world.ann)
    loop, happened = asyncio.get_running_loop(), []

    def flush() -> None:
        job = asyncio.run_coroutine_threadsafe(world.get(lease), loop).result()
        happened.append(job.status)

    assert await world.ann.complete(lease, "file.wav", {}, lambda: happened.append("named"), flush)
    assert happened == ["named", "processing"]
    assert (await world.get(lease)).status == "completed"


async def test_a_job_whose_files_name_cannot_be_kept_is_not_done(world: World) -> None:
    await world.submit()
    (lease,) = await world.claim(world.ann)

    def flush() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DatabaseUnavailable, match="Input/output error"):
        await world.ann.complete(lease, "file.wav", {}, flush=flush)
    assert (await world.get(lease)).status == "processing"
    assert await world.ann.complete(lease, "file.wav", {})


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


async def test_the_processes_that_are_there_are_known(world: World) -> None:
    ann, ben = world.presence("ann", 2, 1), world.presence("ben", 3, 2)
    await ann.sign_on(machine_id())
    for _ in range(2):  # it has been killed, and started again
        await ben.sign_on(machine_id())
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


async def test_no_postgresql_is_shared_by_homes(world: World) -> None:
    """SQLite is in the home, whatever has become of the home's id."""
    # An older version doesn't tell its home.
    await world.presence("old", 1, 0, home="").sign_on("here")
    homes = ["one", "two"] * 3
    others = [world.presence(f"{home}_{number}", 1, 0, home=home) for number, home in enumerate(homes)]
    outcomes = await asyncio.gather(*(each.sign_on("here") for each in others), return_exceptions=True)
    if world.database.is_sqlite:
        assert outcomes == [None] * 6
        return
    assert outcomes.count(None) == 3
    accepted = {home for home, outcome in zip(homes, outcomes, strict=True) if outcome is None}
    assert len(accepted) == 1
    refused = outcomes[1 - homes.index(*accepted)]
    assert isinstance(refused, SettingsError)
    assert "uses this database with another home" in refused.message
    await world.lose_sight()
    await world.presence("new", 1, 0, home="three").sign_on("here")


def test_a_home_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with ThreadPoolExecutor(8) as threads:
        (first,) = set(threads.map(home_id, [tmp_path] * 50))
    assert home_id(tmp_path) == first
    assert home_id(tmp_path / "other") != first
    file = tmp_path / "runners" / "home_id"
    assert list(file.parent.iterdir()) == [file]
    file.write_text(f"{first}\n")
    assert home_id(tmp_path) == first
    for damaged in (b"", b"home", b"\xff"):
        file.write_bytes(damaged)
        with pytest.raises(SettingsError, match="home_id is damaged"):
            home_id(tmp_path)


async def test_jobs_that_end_together_bring_their_names_to_the_disk_together(world: World) -> None:
    for _ in range(10):
        await world.submit()
    flushes: list[None] = []

    def flush() -> None:
        flushes.append(None)

    leases = await world.claim(world.ann, 10)
    assert all(await asyncio.gather(*(world.ann.complete(lease, "a.wav", {}, flush=flush) for lease in leases)))
    # PostgreSQL has a transaction for each.
    assert len(flushes) == 1 if world.database.is_sqlite else len(flushes) == 10


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
