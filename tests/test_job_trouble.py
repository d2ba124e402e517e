"""The disk is full, the database locked or away: jobs are refused clearly, speech goes on, and all ends well."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import index_tts
from conftest import NOISE, SENTENCE, Server, make_home, running_server, wait_until
from dia_server.database.database import open_database
from dia_server.settings import Settings
from postgres import Postgres

SETTINGS = {**NOISE, "database_timeout": 0.5}
CALL = {"text": SENTENCE, "voice_id": "static", "seed": 7}
# A second and a half.
SLOW = {"voice_id": "slow", "text": "The quick brown fox jumps."}
HOME_BYTES = 10_000_000


def submit(server: Server, **fields: Any) -> str:
    answer = server.post("/generate?async_mode=true", CALL | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["job_id"]


def completed(server: Server) -> int:
    return server.get("/queue/stats").json()["completed_jobs"]


def speaks(server: Server) -> bool:
    return server.post("/generate", CALL).status_code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("trouble"), SETTINGS)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Path]:
    """A home on a disk of its own, and a small one."""
    with small_disk(tmp_path / "home", HOME_BYTES) as home:
        yield home


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A new folder with so many bytes of its own."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        failed = subprocess.run(mount, capture_output=True, check=False).returncode
    except OSError:
        failed = True
    if failed:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - where it is differs


@contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """Not a byte is left meanwhile."""
    filler = home / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()


def test_a_full_disk_refuses_jobs_and_nothing_else(small_home: Path) -> None:
    with running_server(make_home(small_home, SETTINGS)) as server:
        server.wait_until_ready()
        before = [submit(server) for _ in range(3)]
        wait_until(lambda: completed(server) == 3)
        # These are accepted while there is room, and done while there is none.
        waiting = [submit(server, **SLOW), *(submit(server, seed=number) for number in range(20))]
        with full_disk(small_home):
            refusals = [server.post(f"{family}/generate?async_mode=true", CALL) for family in ("", "/v1") for _ in "ab"]
            for refusal in refusals:
                assert refusal.status_code in (503, 507), refusal.text
                assert refusal.json()["detail"]
            assert refusals[-1].json()["error"]["code"] in ("storage_full", "database_unavailable")
            assert speaks(server)
            assert server.get("/health").json()["status"] == "healthy"
            assert server.get("/jobs").status_code in (200, 503)
            # What was begun has nowhere to go. (The log, on the same disk, can't tell.)
            wait_until(lambda: server.busy() == 0)
            assert speaks(server)
        wait_until(lambda: server.post("/generate?async_mode=true", CALL).status_code == 200)
        wait_until(lambda: completed(server) == len(before) + len(waiting) + 1)
        for job_id in (*before, *waiting):
            assert server.get(f"/jobs/{job_id}/result").content[:4] == b"RIFF"
        assert "unexpected error" not in server.log()


def test_a_full_disk_for_copies_leaves_no_files(server: Server) -> None:
    params = {"text": SENTENCE, "spk_audio_prompt": "static", "model": "noise", "output_path": "outputs/mine.wav"}
    before = server.log().count("job not done")
    # One page, which is less than any clip.
    with small_disk(server.home / "outputs", 4_096):
        task_id = index_tts.submit(server, params)
        wait_until(lambda: server.log().count("job not done") >= before + 2)
        wait_until(lambda: index_tts.task(server, task_id)["status"] == "pending")
        assert list((server.home / "tasks").glob(f"{task_id}*.wav")) == []
        assert index_tts.delete(server, task_id).status_code == 200


def test_a_locked_database_refuses_jobs_and_nothing_else(server: Server) -> None:
    before = server.get("/logs").json()["total"]
    first = submit(server, **SLOW)
    wait_until(lambda: server.get(f"/jobs/{first}").json()["status"] == "processing")
    with closing(sqlite3.connect(server.home / "dia-server.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(20) as clients:
            answers = [clients.submit(server.post, "/v1/generate?async_mode=true", CALL) for _ in range(20)]
            while not all(answer.done() for answer in answers):
                assert server.get("/health").status_code == 200
        # All are told while the lock is still held.
        for refused in (answer.result() for answer in answers):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
            assert refused.headers["retry-after"]
            assert "locked" in refused.json()["detail"]
        # Readers need no lock.
        assert server.get(f"/jobs/{first}").status_code == 200
        assert speaks(server)
        # The job that was begun is done meanwhile, and waits to be written down.
        wait_until(lambda: list((server.home / "tasks").glob(f"{first}*.wav")))
        wait_until(lambda: "database is away" in server.log())
        other.execute("ROLLBACK")
    wait_until(lambda: server.get(f"/jobs/{first}").json()["status"] == "completed")
    second = submit(server)
    wait_until(lambda: server.get(f"/jobs/{second}").json()["status"] == "completed")
    assert server.get("/logs").json()["total"] >= before + 3
    assert "unexpected error" not in server.log()


def test_a_postgresql_that_is_away_refuses_jobs_and_nothing_else(tmp_path: Path, postgres: Postgres) -> None:
    settings = {"database_url": postgres.new_database(), "job_lease_seconds": 3}
    with running_server(make_home(tmp_path, SETTINGS | settings)) as server:
        server.wait_until_ready()
        running = submit(server, **SLOW)
        waiting = [submit(server, seed=number) for number in range(5)]
        wait_until(lambda: server.get(f"/jobs/{running}").json()["status"] == "processing")
        postgres.stop()
        try:
            for path in ("/v1/jobs", f"/v1/jobs/{running}", "/v1/queue/stats", "/v1/logs"):
                answer = server.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable"), path
                assert answer.headers["retry-after"]
            refused = server.post("/v1/generate?async_mode=true", CALL)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
            assert "postgres@" not in refused.text
            assert speaks(server)
            assert server.get("/health").json()["status"] == "healthy"
            # The lease ends meanwhile, without anybody's fault.
            time.sleep(3.5)
        finally:
            postgres.start()
        wait_until(lambda: server.get("/queue/stats").status_code == 200)
        wait_until(lambda: completed(server) == 1 + len(waiting))
        for job_id in (running, *waiting):
            assert server.get(f"/jobs/{job_id}/result").status_code == 200
        assert server.get("/logs").json()["total"] >= 1 + len(waiting)
        assert "unexpected error" not in server.log()


async def test_the_url_may_say_what_postgresql_takes_there(tmp_path: Path, postgres: Postgres) -> None:
    url = f"{postgres.new_database()}&sslmode=prefer&application_name=speech"
    async with open_database(Settings(database_url=url), tmp_path) as database:
        assert (await database.read(text("SHOW application_name")))[0][0] == "speech"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/database", "database_url must be empty, or like postgresql://"),
        ("sqlite:///other.db", "database_url must be empty, or like postgresql://"),
        ("postgresql://host:port/database", "database_url must be empty, or like postgresql://"),
        ("postgresql://dia:secret@localhost:1/dia", "The database 'dia' on 'localhost' can't be used: "),
        ("postgresql://localhost:1/dia?password=secret", "The database 'dia' on 'localhost' can't be used: "),
    ],
)
def test_a_database_that_cannot_be_used_is_named(tmp_path: Path, url: str, message: str) -> None:
    make_home(tmp_path, SETTINGS | {"database_url": url})
    found = subprocess.run(
        [sys.executable, "-m", "dia_server", "worker", "--home", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 1
    assert message in found.stderr
    assert "secret" not in found.stderr
    assert "Traceback" not in found.stderr
