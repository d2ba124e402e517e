"""Memory, the time to the first answer, and the size of an installation."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import (
    ROOT,
    SIXTY_WORDS,
    TEN_WORDS,
    Client,
    Note,
    goal,
    listen,
    mb,
    running_server,
    speech,
    start_server,
    stop,
    table,
)

TITLE = "Footprint"
MEASURED = (
    "Memory of each process, idle and after 100 requests of 4 clients (60 words, mp3); the time from starting "
    "`dia-server serve` to the first byte of audio, asked for as soon as the port is open (warm file caches, median of "
    "7); and the first installation without the test tools, without pip's cache."
)

REQUESTS = 100
CLIENTS = 4
STARTS = 7
GOAL_SECONDS = 1.5


def run(note: Note) -> str:
    """Measure."""
    note("memory")
    memory = memory_table()
    note("starts")
    port_opens, first_answer = starts()
    note("installation")
    installation = install()
    reached = goal(
        "first audio less than 1.5 s after the start", f"{first_answer:.2f} s", met=first_answer < GOAL_SECONDS
    )
    rows = [
        ["`serve` until the port is open", f"{port_opens:.2f} s"],
        ["`serve` until the first byte of audio", f"**{first_answer:.2f} s**"],
        *installation,
    ]
    return f"{memory}\n\n{table(['What', 'Figure'], rows)}\n\n{reached}"


def memory_table() -> str:
    """Resident memory, and what is each process's alone."""
    with running_server({}) as server:
        processes = {f"worker {worker['id']}": psutil.Process(worker["pid"]) for worker in server.workers()}
        processes["HTTP"] = psutil.Process(server.pid)
        others = [child for child in processes["HTTP"].children() if child not in processes.values()]
        processes |= {f"helper {number} of multiprocessing": child for number, child in enumerate(others, start=1)}
        idle = [memory_of(process) for process in processes.values()]
        listen(server.port, speech(SIXTY_WORDS, "mp3"), clients=CLIENTS, clips=REQUESTS)
        used = [memory_of(process) for process in processes.values()]
    rows = [
        [name, *map(mb, before), *map(mb, after)] for name, before, after in zip(processes, idle, used, strict=True)
    ]
    return table(["Process", "RSS idle", "USS idle", f"RSS after {REQUESTS}", f"USS after {REQUESTS}"], rows)


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """Resident and unique bytes."""
    memory = process.memory_full_info()
    return memory.rss, memory.uss


def starts() -> tuple[float, float]:
    """Median seconds until the port is open, and until the first audio."""
    with tempfile.TemporaryDirectory() as home:
        taken = [start(Path(home)) for _ in range(STARTS + 1)][1:]
    port_opens, first_answer = (statistics.median(side) for side in zip(*taken, strict=True))
    return port_opens, first_answer


def start(home: Path) -> tuple[float, float]:
    """One start, from the first line of the process on."""
    started = time.perf_counter()
    process, port = start_server(home)
    try:
        port_opens = time.perf_counter() - started
        client = Client(port)
        next(client.speak(speech(TEN_WORDS, "wav")))
        first_answer = time.perf_counter() - started
        client.close()
    finally:
        stop(process)
    return port_opens, first_answer


def install() -> list[list[str]]:
    """Rows: seconds and size of an installation into a new environment, and of extras; needs a package index."""
    rows = []
    before = 0
    with tempfile.TemporaryDirectory() as folder:
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        for what, wanted in {"first installation": ".", "the extra `whisper` on top": ".[whisper]"}.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            done = subprocess.run(
                [*pip, "--constraint", "constraints.txt", wanted], cwd=ROOT, capture_output=True, text=True, check=False
            )
            taken = time.perf_counter() - started
            if done.returncode:
                return [*rows, [what, f"failed: {done.stderr.strip().splitlines()[-1]}"]]
            size = sum(file.lstat().st_size for file in Path(folder).rglob("*") if file.is_file())
            rows += [[f"{what}: time, most of it downloads", f"{taken:.0f} s"], ["its size", mb(size - before)]]
            before = size
    return rows
