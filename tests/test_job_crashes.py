"""Servers, workers and databases are killed while jobs come in and run: each job is completed once, as in peace."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import make_home, wait_until
from fleet import Address, Fleet, free_port
from postgres import Postgres

FORMATS = ("wav", "mp3", "pcm")
# A job that meets many kills is not to blame.
SETTINGS = {"job_max_attempts": 1000, "job_lease_seconds": 3.0, "crash_loop_deaths": 1000, "database_timeout": 2.0}


def settings(engine: str, **more: Any) -> dict[str, Any]:
    return {**SETTINGS, "engine": engine, "lanes": {"speech": {"models": [engine], "processes": 1}}, **more}


def body(engine: str, number: int) -> dict[str, Any]:
    voice = {"noise": "pieces", "hibari": "skylark"}[engine]
    return {
        "text": f"This is job number {number}.",
        "voice_id": voice,
        "seed": number,
        "response_format": FORMATS[number % len(FORMATS)],
    }


@contextmanager
def client(
    urls: list[str], bodies: list[dict[str, Any]], path: str = "/generate?async_mode=true", id_field: str = "job_id"
) -> Iterator[dict[int, str]]:
    """Submits one job after the other, again and again until it is accepted; their ids by number."""
    accepted: dict[int, str] = {}
    over, dice = threading.Event(), random.Random(0)

    def submit(number: int) -> None:
        headers = {"Idempotency-Key": f"number {number}"}
        while not over.wait(0.02):
            try:
                answer = httpx.post(f"{dice.choice(urls)}{path}", json=bodies[number], headers=headers, timeout=20)
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                accepted[number] = answer.json()[id_field]
                return
            assert answer.status_code == 503, answer.text

    thread = threading.Thread(target=lambda: [submit(number) for number in range(len(bodies))])
    thread.start()
    try:
        yield accepted
        wait_until(lambda: len(accepted) == len(bodies) or not thread.is_alive(), seconds=600)
    finally:
        over.set()
        thread.join()


def completed(server: Address) -> int:
    """How many jobs are; -1 while the server or its database is away."""
    try:
        answer = server.get("/queue/stats")
    except httpx.TransportError:
        return -1
    return answer.json()["completed_jobs"] if answer.status_code == 200 else -1


def check(server: Address, bodies: list[dict[str, Any]], accepted: dict[int, str]) -> None:
    """All jobs are there once, and gave what a listener gets."""
    count = len(bodies)
    wait_until(lambda: completed(server) == count, seconds=300)
    assert len(set(accepted.values())) == count
    assert server.get("/jobs?limit=1").json()["total"] == count
    with httpx.Client(base_url=server.url, timeout=60) as asking:
        for number, job_id in accepted.items():
            found = asking.get(f"/jobs/{job_id}").json()
            assert (found["status"], found["seed"]) == ("completed", number)
            heard = asking.post("/generate", json=bodies[number]).content
            assert asking.get(f"/jobs/{job_id}/result").content == heard


def kill_the_server(home: Path, engine: str, count: int, kills: int) -> None:
    make_home(home, settings(engine))
    bodies = [body(engine, number) for number in range(count)]
    with Fleet(home) as fleet:
        server = Address(home, free_port())
        fleet.start("server", "serve", "--port", server.url.rpartition(":")[2])
        with client([server.url], bodies) as accepted:
            for kill in range(1, kills + 1):
                wait_until(lambda kill=kill: completed(server) >= count * kill // (kills + 2), seconds=300)
                fleet.kill("server")
                fleet.start("server")
        check(server, bodies, accepted)


@pytest.mark.parametrize(("engine", "count"), [("noise", 100), ("hibari", 10)])
def test_jobs_survive_kills_of_the_server(tmp_path: Path, engine: str, count: int) -> None:
    kill_the_server(tmp_path, engine, count, kills=2)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["noise", "hibari"])
def test_a_thousand_jobs_survive_ten_kills(tmp_path: Path, engine: str) -> None:
    kill_the_server(tmp_path, engine, count=1000, kills=10)


def kill_anything(home: Path, postgres: Postgres, count: int, rounds: int) -> None:
    make_home(home, settings("noise", database_url=postgres.new_database()))
    bodies = [body("noise", number) for number in range(count)]
    dice = random.Random(0)
    with Fleet(home) as fleet:
        servers = [Address(home, free_port()) for _ in range(2)]
        for number, server in enumerate(servers):
            fleet.start(f"server {number}", "serve", "--port", server.url.rpartition(":")[2])
            fleet.start(f"worker {number}", "worker")
        wait_until(lambda: all(completed(server) >= 0 for server in servers))
        with client([server.url for server in servers], bodies) as accepted:
            for number in range(rounds):
                name = dice.choice(list(fleet.commands))
                fleet.kill(name)
                fleet.start(name)
                if number == rounds // 2:
                    postgres.restart()
                time.sleep(dice.random() * 2)
                fleet.revive()
            fleet.revive()
        check(servers[0], bodies, accepted)


def test_jobs_survive_kills_of_servers_workers_and_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    kill_anything(tmp_path, postgres, count=60, rounds=3)


@pytest.mark.soak
def test_a_thousand_jobs_survive_kills_of_everything(tmp_path: Path, postgres: Postgres) -> None:
    kill_anything(tmp_path, postgres, count=1000, rounds=100)


def kill_workers(home: Path, postgres: Postgres, count: int, seconds: float) -> None:
    """Four workers, one of which is killed and started again every two seconds; halfway, the database is too."""
    more = {"database_url": postgres.new_database(), "index_tts": {"run_in_server": False}}
    make_home(home, settings("noise", **more))
    unhurried = {"models": {"noise": {"event_samples": 6_615, "event_seconds": 0.05}}}
    (home / "voices" / "unhurried.yaml").write_text(json.dumps(unhurried), encoding="utf-8")
    params = [{"text": f"This is task number {number}.", "seed": number} for number in range(count)]
    bodies = [{"params": each | {"spk_audio_prompt": "unhurried", "model": "noise"}} for each in params]
    dice, over = random.Random(0), time.monotonic() + seconds
    with Fleet(home) as fleet:
        server = Address(home, free_port())
        fleet.start("server", "serve", "--port", server.url.rpartition(":")[2])
        wait_until(lambda: completed(server) >= 0)
        workers = [f"worker {number}" for number in range(4)]
        for name in workers:
            fleet.start(name, "worker")
        with client([server.url], bodies, "/tts", "task_id") as accepted:
            is_restarted = False
            while time.monotonic() < over:
                time.sleep(2)
                name = dice.choice(workers)
                fleet.kill(name)
                fleet.start(name)
                if not is_restarted and time.monotonic() > over - seconds / 2:
                    postgres.restart()
                    is_restarted = True
                fleet.revive()
        check_tasks(server, fleet, params, accepted)


def check_tasks(server: Address, fleet: Fleet, params: list[dict[str, Any]], accepted: dict[int, str]) -> None:
    """Every task is done, once, with its own audio."""
    count = len(params)

    def done() -> dict[str, Any]:
        fleet.revive()
        answer = server.get("/tasks")
        return answer.json() if answer.status_code == 200 else {"total": -1}

    wait_until(lambda: done()["total"] == count, seconds=300)
    found = {task["id"]: task for task in done()["tasks"]}
    assert set(accepted.values()) == set(found)
    assert len(found) == count
    for status in ("pending", "running", "error"):
        assert server.get(f"/tasks?status={status}").json()["total"] == 0
    logs = "".join(fleet.log(name) for name in fleet.commands)
    told = {task_id: len(re.findall(f'"job": ?"{task_id}".*"event": ?"job done"', logs)) for task_id in found}
    # A worker that is killed meanwhile may have said nothing.
    assert set(told.values()) <= {0, 1}
    assert sum(told.values()) > count / 2
    with httpx.Client(base_url=server.url, timeout=60) as asking:
        for number, task_id in accepted.items():
            call = {"text": params[number]["text"], "seed": number, "voice_id": "static"}
            heard = asking.post("/generate", json=call).content
            assert asking.get(f"/tts/{task_id}/audio").content == heard
    assert {path.name for path in (server.home / "tasks").iterdir()} >= {f"{task_id}.wav" for task_id in found}


def test_tasks_survive_kills_of_workers_and_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    kill_workers(tmp_path, postgres, count=100, seconds=6)


@pytest.mark.soak
def test_five_hundred_tasks_survive_half_a_minute_of_kills(tmp_path: Path, postgres: Postgres) -> None:
    kill_workers(tmp_path, postgres, count=500, seconds=30)
