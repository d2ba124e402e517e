"""Jobs in the database: accepted once, listed, claimed in order, watched, and removed with their files."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import aclosing
from typing import Any

import pytest

from dia_server.database.tables import jobs
from dia_server.errors import BadInput, Conflict, Draining, JobNotFound, NotFound, QueueFull
from dia_server.jobs.feed import Feed
from dia_server.jobs.job import JobState
from dia_server.jobs.results import Results
from job_world import SETTINGS, World


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
    assert [job.position for job in await world.store.listed("k", places=False)] == [None] * 3
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


async def test_what_lost_attempts_left_is_swept_an_hour_later(world: World) -> None:
    done, cancelled, running = [await world.submit() for _ in range(3)]
    await world.finish(world.ann)
    await world.claim(world.ann, 2)
    await world.store.cancel("k", cancelled.id)
    result = (await world.get(done)).file
    unknown = uuid.uuid4()
    kept = {result, f"{running.id}.1.wav", f"{unknown}.wav", "mine.wav", "mine.1.wav"}
    lost = {f"{done.id}.9.wav", f"{cancelled.id}.1.wav", f"{unknown}.1.wav"}
    for name in kept | lost:
        (world.results.folder / name).write_bytes(b"sound")

    def names() -> set[str]:
        return {path.name for path in world.results.folder.iterdir()}

    await world.results.sweep()
    assert names() == kept | lost
    for name in kept | lost:
        os.utime(world.results.folder / name, (0, 0))
    later = Results(world.store, SETTINGS, world.results.home)
    await later.sweep()
    assert names() == kept


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
