"""Who runs jobs: servers and `dia-server worker`s, on one home and one database."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import index_tts
from conftest import NOISE, START_SECONDS, Server, make_home, running_server, wait_until
from contract import configured
from dia_server.database.database import open_database
from dia_server.settings import Settings
from fleet import Fleet
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


@pytest.fixture(scope="module")
def accepting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that accepts jobs and runs none."""
    with running_server(make_home(tmp_path_factory.mktemp("accepting"), SETTINGS)) as running:
        yield running


@pytest.fixture
def server(accepting: Server) -> Iterator[Server]:
    """It, with no jobs but the test's own."""
    yield accepting
    for each in accepting.get("/jobs?limit=500").json()["jobs"]:
        if each["status"] in ("pending", "processing"):
            httpx.delete(f"{accepting.url}/jobs/{each['id']}").raise_for_status()
    httpx.delete(f"{accepting.url}/jobs").raise_for_status()
    for each in accepting.get("/tasks?limit=500").json()["tasks"]:
        index_tts.delete(accepting, each["id"]).raise_for_status()


@pytest.fixture
def fleet(server: Server) -> Iterator[Fleet]:
    """The test's own workers for it."""
    with Fleet(server.home) as workers:
        yield workers
        # Who is killed counts as there for a while.
        for name, process in workers.processes.items():
            if process.poll() is None:
                workers.end(name)


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Server]:
    settings = SETTINGS | {"database_url": postgres.new_database()}
    with running_server(make_home(tmp_path_factory.mktemp("postgresql"), settings)) as running:
        yield running


def submit(server: Server, **fields: Any) -> str:
    body = {"text": TEXT, "voice_id": "slow", "seed": 7} | fields
    return server.post("/generate?async_mode=true", body).json()["job_id"]


def job(server: Server, job_id: str) -> dict[str, Any]:
    return server.get(f"/jobs/{job_id}").json()


def status(server: Server, job_id: str) -> str:
    return job(server, job_id)["status"]


def rows(home: Path, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "dia-server.db")) as database:
        return database.execute(f"SELECT {columns} FROM jobs ORDER BY number").fetchall()  # noqa: S608 - ours


def test_workers_run_what_a_server_accepts(server: Server, fleet: Fleet) -> None:
    ids = [submit(server, voice_id="static", seed=number) for number in range(12)]
    assert server.get("/queue/stats").json()["pending_jobs"] == 12
    for name in ("a", "b"):
        fleet.start(name, "worker")
    wait_until(lambda: server.get("/queue/stats").json()["completed_jobs"] == 12)
    wait_until(lambda: server.get("/queue/stats").json()["total_workers"] == 1 + 2)
    for number, job_id in enumerate(ids):
        heard = server.post("/generate", {"text": TEXT, "voice_id": "static", "seed": number})
        assert server.get(f"/jobs/{job_id}/result").content == heard.content
    assert len(list((server.home / "tasks").iterdir())) == 12
    assert {fleet.end(name) for name in ("a", "b")} == {0}
    assert server.get("/queue/stats").json()["total_workers"] == 1


def test_a_worker_that_ends_gives_its_jobs_back(server: Server, fleet: Fleet) -> None:
    with configured(server, job_lease_seconds=3_600):
        job_id = submit(server, text=LONG)
        fleet.start("worker", "worker")
        wait_until(lambda: status(server, job_id) == "processing")
        assert fleet.end("worker") == 0
        assert rows(server.home, "status, attempts, progress") == [("pending", 0, 0.0)]
        assert list((server.home / "tasks").glob("*")) == []


def test_a_worker_stops_what_is_cancelled(server: Server, fleet: Fleet) -> None:
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


def test_a_worker_that_comes_to_late_changes_nothing(server: Server, fleet: Fleet) -> None:
    job_id = submit(server)
    fleet.start("late", "worker")
    wait_until(lambda: status(server, job_id) == "processing")
    stop_between_writes(fleet, "late")
    fleet.start("other", "worker")
    wait_until(lambda: status(server, job_id) == "completed")
    done = rows(server.home, "*")
    (file,) = (server.home / "tasks").iterdir()
    content = file.read_bytes()
    fleet.processes["late"].send_signal(signal.SIGCONT)
    wait_until(lambda: "job taken away" in fleet.log("late") or "late result discarded" in fleet.log("late"))
    assert fleet.end("late") == 0
    assert rows(server.home, "*") == done
    assert list((server.home / "tasks").iterdir()) == [file]
    assert file.read_bytes() == content
    assert rows(server.home, "attempts, lease") == [(2, 2)]


def test_a_restarted_worker_goes_on_at_once(server: Server, fleet: Fleet) -> None:
    with configured(server, job_lease_seconds=3_600):
        job_id = submit(server)
        fleet.start("worker", "worker")
        wait_until(lambda: status(server, job_id) == "processing")
        fleet.kill("worker")
        fleet.start("worker")
        wait_until(lambda: status(server, job_id) == "completed")
        assert rows(server.home, "attempts") == [(1,)]


def test_a_home_with_sqlite_has_one_server(server: Server, fleet: Fleet) -> None:
    fleet.start("second", "serve", "--port", "0")
    assert fleet.processes["second"].wait(timeout=START_SECONDS) == 1
    assert f"Another dia-server serves {server.home} already" in fleet.log("second")


def test_a_home_with_postgresql_may_have_several(on_postgresql: Server) -> None:
    before = on_postgresql.get("/queue/stats").json()["pending_jobs"]
    with running_server(on_postgresql.home) as second:
        job_id = submit(second)
        assert status(on_postgresql, job_id) == "pending"
    assert on_postgresql.get("/queue/stats").json()["pending_jobs"] == before + 1


def test_postgresql_is_not_asked_for_what_it_cannot_hold(on_postgresql: Server) -> None:
    for path in ("/jobs/%00", "/jobs/%00/result", "/jobs?voice_id=%00", "/logs/%00", "/logs?voice=%00"):
        answer = on_postgresql.get(path)
        assert (answer.status_code, answer.headers.get("retry-after")) == (400, None)


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",)])
async def test_sqlite_is_refused_to_another_machine(tmp_path: Path, command: tuple[str, ...]) -> None:
    make_home(tmp_path, SETTINGS)
    async with open_database(Settings(), tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "dia-server.db")) as database:
        database.execute("INSERT INTO runners VALUES ('bob/server_1', 'elsewhere', 1, 0, unixepoch(), '')")
        database.commit()
    with Fleet(tmp_path) as fleet:
        fleet.start("here", *command)
        assert fleet.processes["here"].wait(timeout=START_SECONDS) == 1
        assert "'bob/server_1' uses this SQLite database from another machine" in fleet.log("here")
        assert "Traceback" not in fleet.log("here")


def test_one_postgresql_is_refused_to_another_home(tmp_path: Path, on_postgresql: Server) -> None:
    settings = yaml.safe_load((on_postgresql.home / "config.yaml").read_text(encoding="utf-8"))
    with Fleet(make_home(tmp_path, settings)) as fleet:
        fleet.start("there", "worker")
        assert fleet.processes["there"].wait(timeout=START_SECONDS) == 1
        assert "uses this database with another home" in fleet.log("there")
        assert "Traceback" not in fleet.log("there")


def test_tasks_wait_for_workers_that_take_them(tmp_path: Path) -> None:
    own = {"run_jobs_in_server": True, "index_tts": {"run_in_server": False}}
    with running_server(make_home(tmp_path, SETTINGS | own)) as server, Fleet(tmp_path) as fleet:
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


def test_a_deleted_task_leaves_nothing_of_it(server: Server, fleet: Fleet) -> None:
    deleted = index_tts.submit(server, TASK | {"text": LONG, "spk_audio_prompt": "slow"})
    other = index_tts.submit(server, TASK)
    fleet.start("worker", "worker")
    wait_until(lambda: index_tts.task(server, deleted)["status"] == "running")
    assert index_tts.delete(server, deleted).status_code == 200
    # The one worker process is free for the other task long before the first would have been over.
    assert index_tts.ended(server, other)["status"] == "done"
    assert rows(server.home, "id") == [(other,)]
    assert [path.name for path in (server.home / "tasks").iterdir()] == [f"{other}.wav"]


def test_a_model_that_is_not_installed_says_what_to_do(server: Server) -> None:
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
