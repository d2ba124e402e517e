"""Who runs jobs: servers and `dia-server worker`s, on one home and one database."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import index_tts
from conftest import NOISE, START_SECONDS, make_home, running_server, wait_until
from fleet import Address, Fleet, free_port
from postgres import Postgres

SETTINGS = {
    **NOISE,
    "run_jobs_in_server": False,
    "job_lease_seconds": 3,
}
# Two seconds in the slow voice, and more than anybody waits for.
TEXT = "The quick brown fox jumps again."
LONG = "One sentence follows upon another, and nobody is in a hurry. " * 16
TASK = {"text": TEXT, "spk_audio_prompt": "static", "model": "noise"}


@contextmanager
def fleet_with_server(home: Path, **settings: Any) -> Iterator[tuple[Fleet, Address]]:
    """A server that accepts jobs and runs none."""
    make_home(home, SETTINGS | settings)
    with Fleet(home) as fleet:
        server = Address(home, free_port())
        fleet.start("server", "serve", "--port", server.url.rpartition(":")[2])
        wait_until(lambda: "listens on" in fleet.log("server"))
        yield fleet, server


def submit(server: Address, **fields: Any) -> str:
    body = {"text": TEXT, "voice_id": "slow", "seed": 7} | fields
    return server.post("/generate?async_mode=true", body).json()["job_id"]


def job(server: Address, job_id: str) -> dict[str, Any]:
    return server.get(f"/jobs/{job_id}").json()


def status(server: Address, job_id: str) -> str:
    return job(server, job_id)["status"]


def rows(home: Path, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "dia-server.db")) as database:
        return database.execute(f"SELECT {columns} FROM jobs ORDER BY number").fetchall()  # noqa: S608 - ours


def test_workers_run_what_a_server_accepts(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (fleet, server):
        ids = [submit(server, voice_id="static", seed=number) for number in range(12)]
        assert server.get("/queue/stats").json()["pending_jobs"] == 12
        for name in ("a", "b"):
            fleet.start(name, "worker")
        wait_until(lambda: server.get("/queue/stats").json()["completed_jobs"] == 12)
        wait_until(lambda: server.get("/queue/stats").json()["total_workers"] == 1 + 2)
        for number, job_id in enumerate(ids):
            heard = server.post("/generate", {"text": TEXT, "voice_id": "static", "seed": number})
            assert server.get(f"/jobs/{job_id}/result").content == heard.content
        assert len(list((tmp_path / "tasks").iterdir())) == 12
        assert {fleet.end(name) for name in ("a", "b")} == {0}
        assert server.get("/queue/stats").json()["total_workers"] == 1


def test_a_worker_that_ends_gives_its_jobs_back(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path, job_lease_seconds=3_600) as (fleet, server):
        job_id = submit(server, text=LONG)
        fleet.start("worker", "worker")
        wait_until(lambda: status(server, job_id) == "processing")
        assert fleet.end("worker") == 0
        assert rows(tmp_path, "status, attempts, progress") == [("pending", 0, 0.0)]
        assert list((tmp_path / "tasks").glob("*")) == []


def test_a_worker_stops_what_is_cancelled(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (fleet, server):
        cancelled, other = submit(server, text=LONG), submit(server, voice_id="static")
        fleet.start("worker", "worker")
        wait_until(lambda: status(server, cancelled) == "processing")
        assert httpx.delete(f"{server.url}/jobs/{cancelled}").status_code == 200
        # The one worker process is free for the other job long before the first would have been over.
        wait_until(lambda: status(server, other) == "completed")
        assert status(server, cancelled) == "cancelled"


def stop_between_writes(fleet: Fleet, name: str) -> None:
    """Stop a process, but not while it has the database locked: that would stop all others too."""
    while True:
        fleet.processes[name].send_signal(signal.SIGSTOP)
        with closing(sqlite3.connect(fleet.home / "dia-server.db", timeout=0.5)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError:
                fleet.processes[name].send_signal(signal.SIGCONT)


def test_a_worker_that_comes_to_late_changes_nothing(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (fleet, server):
        job_id = submit(server)
        fleet.start("late", "worker")
        wait_until(lambda: status(server, job_id) == "processing")
        stop_between_writes(fleet, "late")
        fleet.start("other", "worker")
        wait_until(lambda: status(server, job_id) == "completed")
        done = rows(tmp_path, "*")
        (file,) = (tmp_path / "tasks").iterdir()
        content = file.read_bytes()
        fleet.processes["late"].send_signal(signal.SIGCONT)
        wait_until(lambda: "job taken away" in fleet.log("late") or "late result discarded" in fleet.log("late"))
        assert fleet.end("late") == 0
        assert rows(tmp_path, "*") == done
        assert list((tmp_path / "tasks").iterdir()) == [file]
        assert file.read_bytes() == content
        assert rows(tmp_path, "attempts, lease") == [(2, 2)]


def test_a_restarted_worker_goes_on_at_once(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path, job_lease_seconds=3_600) as (fleet, server):
        job_id = submit(server)
        fleet.start("worker", "worker")
        wait_until(lambda: status(server, job_id) == "processing")
        fleet.kill("worker")
        fleet.start("worker")
        wait_until(lambda: status(server, job_id) == "completed")
        assert rows(tmp_path, "attempts") == [(1,)]


def test_a_home_with_sqlite_has_one_server(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (fleet, _):
        fleet.start("second", "serve", "--port", "0")
        assert fleet.processes["second"].wait(timeout=START_SECONDS) == 1
        assert f"Another dia-server serves {tmp_path} already" in fleet.log("second")


def test_a_home_with_postgresql_may_have_several(tmp_path: Path, postgres: Postgres) -> None:
    with fleet_with_server(tmp_path, database_url=postgres.new_database()) as (_, server):
        with running_server(tmp_path) as second:
            job_id = submit(second)
            assert status(server, job_id) == "pending"
        assert server.get("/queue/stats").json()["pending_jobs"] == 1


def test_postgresql_is_not_asked_for_what_it_cannot_hold(tmp_path: Path, postgres: Postgres) -> None:
    with running_server(make_home(tmp_path, SETTINGS | {"database_url": postgres.new_database()})) as server:
        for path in ("/jobs/%00", "/jobs/%00/result", "/jobs?voice_id=%00", "/logs/%00", "/logs?voice=%00"):
            answer = server.get(path)
            assert (answer.status_code, answer.headers.get("retry-after")) == (400, None)


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",)])
def test_sqlite_is_refused_to_another_machine(tmp_path: Path, command: tuple[str, ...]) -> None:
    make_home(tmp_path, SETTINGS)
    with running_server(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "dia-server.db")) as database:
        database.execute("INSERT INTO runners VALUES ('bob/server_1', 'elsewhere', 1, 0, unixepoch(), '')")
        database.commit()
    with Fleet(tmp_path) as fleet:
        fleet.start("here", *command)
        assert fleet.processes["here"].wait(timeout=START_SECONDS) == 1
        assert "'bob/server_1' uses this SQLite database from another machine" in fleet.log("here")
        assert "Traceback" not in fleet.log("here")


def test_one_postgresql_is_refused_to_another_home(tmp_path: Path, postgres: Postgres) -> None:
    settings = SETTINGS | {"database_url": postgres.new_database()}
    with running_server(make_home(tmp_path / "one", settings)), Fleet(make_home(tmp_path / "two", settings)) as fleet:
        fleet.start("there", "worker")
        assert fleet.processes["there"].wait(timeout=START_SECONDS) == 1
        assert "uses this database with another home" in fleet.log("there")
        assert "Traceback" not in fleet.log("there")


def test_tasks_wait_for_workers_that_take_them(tmp_path: Path) -> None:
    own = {"run_jobs_in_server": True, "index_tts": {"run_in_server": False}}
    with fleet_with_server(tmp_path, **own) as (fleet, server):
        ids = [index_tts.submit(server, TASK | {"seed": seed}) for seed in range(12)]
        job_id = submit(server, voice_id="static")
        wait_until(lambda: status(server, job_id) == "completed")
        assert server.get("/tasks?status=pending").json()["total"] == 12
        assert server.get("/queue/stats").json()["pending_jobs"] == 12
        assert 'dia_jobs{kind="index_tts",status="pending"} 12.0' in server.get("/metrics").text
        for name in ("a", "b"):
            fleet.start(name, "worker")
        wait_until(lambda: server.get("/tasks").json()["total"] == 12)
        done = [index_tts.task(server, task_id) for task_id in ids]
        assert {found["worker_id"].rpartition("/")[2] for found in done} <= {"worker_1", "worker_2"}
        for seed, found in enumerate(done):
            heard = server.post("/generate", {"text": TEXT, "voice_id": "static", "seed": seed})
            assert index_tts.wav_of(found) == heard.content
        wait_until(lambda: [fleet.log(name).count("model loaded") for name in ("a", "b")] == [1, 1])


def test_a_deleted_task_leaves_nothing_of_it(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (fleet, server):
        deleted = index_tts.submit(server, TASK | {"text": LONG, "spk_audio_prompt": "slow"})
        other = index_tts.submit(server, TASK)
        fleet.start("worker", "worker")
        wait_until(lambda: index_tts.task(server, deleted)["status"] == "running")
        assert index_tts.delete(server, deleted).status_code == 200
        # The one worker process is free for the other task long before the first would have been over.
        assert index_tts.ended(server, other)["status"] == "done"
        assert rows(tmp_path, "id") == [(other,)]
        assert [path.name for path in (tmp_path / "tasks").iterdir()] == [f"{other}.wav"]


def test_a_model_that_is_not_installed_says_what_to_do(tmp_path: Path) -> None:
    with fleet_with_server(tmp_path) as (_, server):
        answer = index_tts.post(server, {"text": TEXT, "spk_audio_prompt": "static"})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
        assert answer.json() == {"detail": "No lane runs model 'hibari'; add it to `lanes` in config.yaml"}


def test_tasks_of_a_lane_on_need_keep_no_others_waiting(tmp_path: Path) -> None:
    """They are claimed one by one, so that the time that each may take begins with its turn."""
    lanes = {
        "speech": {"models": ["hibari"], "processes": 1},
        "rare": {"models": ["noise"], "processes": 1, "idle_timeout": 600},
    }
    make_home(tmp_path, {"engine": "hibari", "lanes": lanes})
    with running_server(tmp_path) as server:
        slow = TASK | {"text": LONG, "spk_audio_prompt": "slow"}
        ids = [index_tts.submit(server, slow) for _ in range(4)]
        wait_until(lambda: index_tts.task(server, ids[0])["status"] == "running")
        other = index_tts.submit(server, {"text": TEXT, "spk_audio_prompt": "examples/voice_01.wav", "model": "hibari"})
        assert index_tts.ended(server, other)["status"] == "done"
        spoken = submit(server, voice_id="skylark")
        wait_until(lambda: status(server, spoken) == "completed")
        states = [index_tts.task(server, task_id)["status"] for task_id in ids]
        assert states == ["running", "pending", "pending", "pending"]
