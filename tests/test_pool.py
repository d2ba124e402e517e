"""Who goes first, and who gives way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dia_server.errors import Draining, NoWorker, QueueFull
from dia_server.pool.clip import Clip
from dia_server.pool.pool import Pool
from dia_server.settings import Lane, Settings
from dia_server.tasks import Speak


@asynccontextmanager
async def running_pool(processes: int = 1, **limits: int) -> AsyncIterator[Pool]:
    pool = Pool(Settings(lanes={"speech": Lane(models=("noise",), processes=processes)}, **limits))
    await pool.start()
    try:
        while sum(worker.state == "up" for worker in pool.workers()) < processes:
            await asyncio.sleep(0.02)
        yield pool
    finally:
        await pool.close()


def task(seed: int = 1, event_seconds: float = 0.02) -> Speak:
    return Speak(model="noise", text="Fifteen letters", seed=seed, options={"event_seconds": event_seconds})


async def hear(clip: Clip, name: str, order: list[str], *, urgent: bool = True) -> None:
    async for _ in clip.run(task(), urgent=urgent):
        pass
    order.append(name)


async def test_another_listeners_first_segment_goes_before_read_ahead() -> None:
    async with running_pool() as pool:
        order: list[str] = []
        with pool.open("noise") as long, pool.open("noise") as short:
            first = asyncio.create_task(hear(long, "long 0", order))
            await asyncio.sleep(0)
            ahead = [long.run(task(number)) for number in (1, 2)]
            second = asyncio.create_task(hear(short, "short 0", order))
            await asyncio.gather(first, second)
            for number, run in enumerate(ahead, start=1):
                async for _ in run:
                    pass
                order.append(f"long {number}")
        assert order == ["long 0", "short 0", "long 1", "long 2"]


async def test_read_ahead_never_takes_the_last_free_slot() -> None:
    async with running_pool(processes=3) as pool:
        with pool.open("noise") as clip:
            for number in range(4):
                clip.run(task(number, event_seconds=1000))
            async with asyncio.timeout(60):
                while sum(worker.busy for worker in pool.workers()) < 2:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert sum(worker.busy for worker in pool.workers()) == 2


async def test_a_closed_clip_gives_its_slot_back_and_the_worker_lives_on() -> None:
    async with running_pool() as pool:
        pid = pool.workers()[0].pid
        clip = pool.open("noise")
        endless = Speak(
            model="noise", text="word " * 2000, seed=1, options={"event_seconds": 0.01, "event_samples": 100}
        )
        run = clip.run(endless, urgent=True)
        await anext(aiter(run))
        clip.close()
        clip.close()
        async with asyncio.timeout(60):
            while pool.workers()[0].busy:
                await asyncio.sleep(0.01)
        order: list[str] = []
        with pool.open("noise") as other:
            await hear(other, "other", order)
        assert (order, pool.workers()[0].pid) == (["other"], pid)


async def test_the_queue_is_bounded_and_so_are_open_clips() -> None:
    async with running_pool(max_queue=2, max_clips=4) as pool:
        clips = [pool.open("noise") for _ in range(2)]
        with pytest.raises(QueueFull) as waiting:
            pool.open("noise")
        assert waiting.value.retry_after is not None
        for clip in clips:
            clip.run(task(), urgent=True)
        async with asyncio.timeout(60):
            while any(clip.waiting for clip in clips):
                await asyncio.sleep(0.01)
        clips += [pool.open("noise") for _ in range(2)]
        with pytest.raises(QueueFull, match="4 requests are open"):
            pool.open("noise")
        for clip in clips:
            clip.close()
        pool.open("noise").close()


async def test_a_model_in_no_lane_and_a_draining_pool_take_nothing() -> None:
    async with running_pool() as pool:
        with pytest.raises(NoWorker, match="lanes"):
            pool.open("hibari")
        clip = pool.open("noise")
        draining = asyncio.create_task(pool.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            pool.open("noise")
        assert not draining.done()
        clip.close()
        await asyncio.wait_for(draining, 60)


async def test_a_lane_is_not_delayed_by_another() -> None:
    lanes = {"speech": Lane(models=("noise",)), "tools": Lane(models=("hibari",))}
    pool = Pool(Settings(lanes=lanes))
    await pool.start()
    try:
        with pool.open("noise") as busy, pool.open("hibari") as other:
            slow = busy.run(task(event_seconds=1000), urgent=True)
            words = other.run(Speak(model="hibari", text="Hello there.", seed=1), urgent=True)
            assert await anext(aiter(words))
            assert not slow.ended
        assert [worker.lane for worker in pool.workers()] == ["speech", "tools"]
    finally:
        await pool.close()


async def test_a_worker_of_a_helping_lane_comes_and_goes_with_the_work() -> None:
    pool = Pool(Settings(lanes={"tools": Lane(models=("noise",), idle_timeout=0.3)}))
    await pool.start()
    try:
        for _ in range(2):
            assert (pool.workers()[0].state, pool.workers()[0].pid) == ("idle", None)
            with pool.open("noise") as clip:
                samples = [item async for item in clip.run(task(), urgent=True)]
            assert b"".join(samples)
            assert pool.workers()[0].state == "up"
            while pool.workers()[0].state != "idle":
                await asyncio.sleep(0.02)
        assert pool.workers()[0].deaths == 0
    finally:
        await pool.close()


async def test_a_worker_of_a_helping_lane_that_had_a_queue_is_not_started_once_more_for_nothing() -> None:
    pool = Pool(Settings(lanes={"tools": Lane(models=("noise",), idle_timeout=0.3)}))
    await pool.start()
    processes = set()
    try:
        with pool.open("noise") as one, pool.open("noise") as other:
            runs = [clip.run(task(), urgent=True) for clip in (one, other)]
            for run in runs:
                async for _ in run:
                    processes.add(pool.workers()[0].pid)
        while pool.workers()[0].state != "idle":
            await asyncio.sleep(0.01)
            processes.add(pool.workers()[0].pid)
        assert len(processes - {None}) == 1
        with pool.open("noise") as clip:
            assert [item async for item in clip.run(task(), urgent=True)]
    finally:
        await pool.close()


async def test_work_that_comes_while_a_worker_of_a_helping_lane_goes_gets_another() -> None:
    pool = Pool(Settings(lanes={"tools": Lane(models=("noise",), idle_timeout=0.1)}))
    await pool.start()
    try:
        met = 0
        async with asyncio.timeout(60):
            # A worker may be gone before anybody sees it go.
            while met < 3:
                with pool.open("noise") as clip:
                    assert [item async for item in clip.run(task(), urgent=True)]
                while pool.workers()[0].state == "up":
                    await asyncio.sleep(0.002)
                met += pool.workers()[0].state == "retiring"
        assert pool.workers()[0].deaths == 0
    finally:
        await pool.close()
