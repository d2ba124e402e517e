"""The runner: what becomes of a job when its handler ends, fails, or is broken off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dia_server.background import uninterrupted
from dia_server.database.database import Database
from dia_server.database.tables import jobs
from dia_server.errors import (
    BadInput,
    GenerationFailed,
    JobNotFound,
    ModelUnavailable,
    NoWorker,
    ReplayMismatch,
    StorageFull,
    WorkersDie,
)
from dia_server.jobs import leases as leases_module
from dia_server.jobs import runner as runner_module
from dia_server.jobs.job import Job, Lease, NewJob
from dia_server.jobs.leases import Leases
from dia_server.jobs.results import Results
from dia_server.jobs.runner import Runner
from dia_server.jobs.store import JobStore
from dia_server.settings import Settings

SETTINGS = Settings(job_max_attempts=2)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(runner_module, "KEEP_SECONDS", 0.2)


class Scripted:
    """A handler whose runs end one after the other as they are told to; the last one goes on for ever."""

    def __init__(self, *ends: Exception | str) -> None:
        self.ends = list(ends)
        self.begun = 0

    async def run(
        self, job_id: str, payload: bytes, stem: Path, report: Callable[[float], None]
    ) -> tuple[str | None, dict[str, Any]]:
        del job_id, payload
        self.begun += 1
        report(0.5)
        if not self.ends:
            await asyncio.Event().wait()
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        stem.with_name(f"{stem.name}.wav").write_text(end)
        return f"{stem.name}.wav", {"size": len(end)}


class Writing(Scripted):
    """A handler that is cancelled while a thread of its writes the file."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()
        self.has_written = threading.Event()
        self.task: asyncio.Task[Any] | None = None

    async def run(
        self, job_id: str, payload: bytes, stem: Path, report: Callable[[float], None]
    ) -> tuple[str | None, dict[str, Any]]:
        del job_id, payload, report
        self.task = asyncio.current_task()
        await uninterrupted(asyncio.to_thread(self._write, stem.with_name(f"{stem.name}.wav")))
        return f"{stem.name}.wav", {}

    def _write(self, path: Path) -> None:
        assert self.may_write.wait(20)
        path.write_text("sound")
        self.has_written.set()


def runner_of(database: Database, folder: Path, handler: Scripted, name: str = "ann") -> Runner:
    return Runner(Leases(database, SETTINGS, name), {"k": handler}, SETTINGS, folder, lambda: 1)


async def submit(database: Database) -> Job:
    return await JobStore(database, SETTINGS).submit(NewJob(kind="k", voice=None, request={}, payload=b""))


async def row(database: Database) -> Any:
    """Of the newest job."""
    return (await database.read(select(jobs).order_by(jobs.c.number.desc())))[0]


async def until(database: Database, **wanted: Any) -> Any:
    """The job's row, once it is like this."""
    async with asyncio.timeout(60):
        while True:
            found = await row(database)
            if all(getattr(found, name) == value for name, value in wanted.items()):
                return found
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10])
async def test_a_halt_gives_jobs_back_whenever_the_end_comes(database: Database, tmp_path: Path, turns: int) -> None:
    await submit(database)
    runner = runner_of(database, tmp_path, Scripted())
    async with runner.running():
        await until(database, status="processing")
        runner.halt()
        for _ in range(turns):
            await asyncio.sleep(0)
    found = await row(database)
    assert (found.status, found.attempts, found.progress) == ("pending", 0, 0.0)


async def test_models_on_need_have_room_of_their_own(database: Database, tmp_path: Path) -> None:
    store = JobStore(database, SETTINGS)
    models = ["slow", "slow", "slow", "fast", "fast"]
    for model in models:
        await store.submit(NewJob(kind="k", model=model, voice=None, request={}, payload=b""))
    leases = Leases(database, SETTINGS, "ann")
    runner = Runner(leases, {"k": Scripted()}, SETTINGS, tmp_path, lambda: 1, lambda: {frozenset({"slow"}): 2})
    async with runner.running():
        async with asyncio.timeout(60):
            while (await store.counts()).get("processing") != 3:
                await asyncio.sleep(0.02)
        running = await database.read(select(jobs.c.model).where(jobs.c.status == "processing"))
        assert sorted(row.model for row in running) == ["fast", "slow", "slow"]


async def test_a_halt_gives_jobs_back_before_the_end(database: Database, tmp_path: Path) -> None:
    await submit(database)
    runner = runner_of(database, tmp_path, Scripted())
    async with runner.running():
        await until(database, status="processing")
        runner.halt()
        # Streams may go on for long after the drain has begun.
        await until(database, status="pending", attempts=0)


@pytest.mark.parametrize("turns", range(5))
async def test_a_halt_counts_that_comes_with_a_new_job(database: Database, tmp_path: Path, turns: int) -> None:
    runner = runner_of(database, tmp_path, Scripted())
    async with asyncio.timeout(10), runner.running():
        await asyncio.sleep(0.1)
        runner.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        runner.halt()


async def test_a_job_that_cannot_be_done_keeps_no_other_waiting(database: Database, tmp_path: Path) -> None:
    first, second = await submit(database), await submit(database)
    handler = Scripted(NoWorker("none"), "sound", NoWorker("none"))
    async with runner_of(database, tmp_path, handler).running():
        await until(database, id=second.id, status="completed")
    rows = await database.read(select(jobs).where(jobs.c.id == first.id))
    assert (rows[0].status, rows[0].lease) == ("pending", 1)


async def test_what_the_database_cannot_hold_of_an_error_is_left_out(database: Database, tmp_path: Path) -> None:
    await submit(database)
    async with runner_of(database, tmp_path, Scripted(BadInput("a\0b"), "sound")).running():
        assert (await until(database, status="failed")).error == "ab"
        await submit(database)
        await until(database, status="completed", number=2)


@pytest.mark.parametrize("error", [BadInput("no such thing"), GenerationFailed("it dies"), ModelUnavailable("gone")])
async def test_what_will_never_work_fails_at_once(database: Database, tmp_path: Path, error: Exception) -> None:
    await submit(database)
    async with runner_of(database, tmp_path, Scripted(error)).running():
        assert (await until(database, status="failed")).error == str(error)


async def test_what_may_work_is_tried_again_until_it_is_given_up(database: Database, tmp_path: Path) -> None:
    await submit(database)
    handler = Scripted(ReplayMismatch("first"), ReplayMismatch("second"))
    async with runner_of(database, tmp_path, handler).running():
        assert (await until(database, status="failed")).error == "second"
    assert handler.begun == 2


async def test_what_workers_die_of_is_given_up_after_some_attempts(database: Database, tmp_path: Path) -> None:
    await submit(database)
    handler = Scripted(WorkersDie("first"), WorkersDie("second"))
    async with runner_of(database, tmp_path, handler).running():
        assert (await until(database, status="failed")).error == "second"
    assert handler.begun == 2


@pytest.mark.parametrize("error", [NoWorker("none"), StorageFull("full"), OSError(28, "full")])
async def test_what_is_missing_here_blames_no_job(database: Database, tmp_path: Path, error: Exception) -> None:
    await submit(database)
    async with runner_of(database, tmp_path, Scripted(error, "sound")).running():
        await until(database, status="pending", attempts=0, lease=1)
        assert (await until(database, status="completed")).attempts == 1


async def test_a_bug_fails_its_job_and_no_other(database: Database, tmp_path: Path) -> None:
    await submit(database)
    async with runner_of(database, tmp_path, Scripted(ValueError("secret"), "sound")).running():
        found = await until(database, status="failed")
        assert found.error.startswith("Internal error (ValueError)")
        assert "secret" not in found.error
        await submit(database)
        await until(database, status="completed", number=2)


async def test_what_a_cancelled_job_was_writing_is_not_left_behind(database: Database, tmp_path: Path) -> None:
    job = await submit(database)
    handler = Writing()
    async with runner_of(database, tmp_path / "tasks", handler).running():
        await until(database, status="processing")
        store = JobStore(database, SETTINGS)
        await store.cancel("k", job.id)
        # Nobody will look for files of a job that is forgotten.
        await store.remove([job.id])
        (tmp_path / "tasks").mkdir()
        async with asyncio.timeout(60):
            while handler.task is None or not handler.task.cancelling():
                await asyncio.sleep(0.02)
        handler.may_write.set()
    assert handler.has_written.is_set()
    assert list((tmp_path / "tasks").iterdir()) == []


async def test_a_result_has_its_name_before_anybody_sees_that_it_is_there(database: Database, tmp_path: Path) -> None:
    job = await submit(database)
    async with runner_of(database, tmp_path, Scripted("sound")).running():
        assert (await until(database, status="completed")).file == f"{job.id}.wav"
        assert (tmp_path / f"{job.id}.wav").read_text() == "sound"


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_deleted_job_leaves_no_file(database: Database, tmp_path: Path, is_done: bool) -> None:
    job, store = await submit(database), JobStore(database, SETTINGS)
    results = Results(store, SETTINGS, tmp_path)
    results.folder.mkdir()
    handler = Scripted("sound") if is_done else Writing()
    async with runner_of(database, results.folder, handler).running():
        await until(database, status="completed" if is_done else "processing")
        await results.delete("k", job.id)
        if isinstance(handler, Writing):
            handler.may_write.set()
            async with asyncio.timeout(20):
                while not handler.has_written.is_set() or list(results.folder.iterdir()):
                    await asyncio.sleep(0.02)
    assert await database.read(select(jobs)) == []
    assert list(results.folder.iterdir()) == []
    with pytest.raises(JobNotFound):
        await results.delete("k", job.id)


async def test_a_job_that_is_cancelled_while_its_end_is_written_leaves_no_file(
    database: Database, tmp_path: Path
) -> None:
    job, store = await submit(database), JobStore(database, SETTINGS)

    class Slow(Leases):
        async def complete(self, lease: Lease, *values: Any) -> bool:
            await store.cancel("k", job.id)
            await store.remove([job.id])
            # Until the runner has looked whose jobs are whose.
            await asyncio.sleep(2 * runner_module.KEEP_SECONDS)
            return await super().complete(lease, *values)

    runner = Runner(Slow(database, SETTINGS, "ann"), {"k": Scripted("sound")}, SETTINGS, tmp_path, lambda: 1)

    def is_there() -> bool:
        return bool(list(tmp_path.glob("*.wav")))

    async with runner.running(), asyncio.timeout(60):
        for wanted in (True, False):
            while is_there() != wanted:
                await asyncio.sleep(0.02)


async def test_no_job_is_done_before_its_file_has_its_name_for_good(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []

    def fail(folder: Path) -> None:
        synced.append(folder)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(runner_module, "sync_folder", fail)
    await submit(database)
    async with runner_of(database, tmp_path, Scripted("sound")).running(), asyncio.timeout(60):
        while not synced:
            await asyncio.sleep(0.02)
    assert (await row(database)).status == "pending"
