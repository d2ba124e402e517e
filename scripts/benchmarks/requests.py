"""How many requests a second, next to LitServe, and where the HTTP process spends its time."""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.common import (
    Load,
    Note,
    free_port,
    lanes,
    load,
    load_of,
    ms,
    running_server,
    speech,
    table,
    under_load,
)
from benchmarks.peers import environment, running_peer
from dia_server.bench import percentile

TITLE = "Requests"
MEASURED = (
    "Requests a second for 0.8 s of `noise` as a wav file, by 64 keep-alive clients, in turns with LitServe doing the "
    "same work (one worker process and one HTTP process each), and a profile of our HTTP process under this load."
)

LITSERVE = "litserve==0.2.19"
PACKAGES = (LITSERVE, "py-spy==0.4.2", "numpy", "uvloop", "httptools")
CLIENTS = 64
ROUNDS = 7
ROUND_SECONDS = 2.5
PROFILE_SECONDS = 6
PROFILE_ENTRIES = 8
BODY = speech("Hello there.", "wav", model="noise", stream=False)


def run(note: Note) -> str:
    """Measure."""
    tools = environment("litserve", PACKAGES, note)
    with running_server(lanes("noise", processes=1)) as server, litserve(tools) as (peer, peer_pid):
        for port in (server.port, peer):
            load(port, BODY, clients=CLIENTS, seconds=1)
        ours, theirs = [], []
        for number in range(ROUNDS):
            note(f"round {number + 1} of {ROUNDS}")
            ours.append(one_round(server.port, server.pid))
            theirs.append(one_round(peer, peer_pid))
        note("profile")
        with under_load(server.port, BODY, clients=CLIENTS, seconds=PROFILE_SECONDS + 2) as process:
            time.sleep(0.5)
            entries = profile(tools, server.pid)
            load_of(process)
    ratio = statistics.median(a.load.rate / b.load.rate for a, b in zip(ours, theirs, strict=True))
    return "\n\n".join(
        [
            comparison(ours, theirs),
            f"Requests a second, ours to LitServe's: **{ratio:.2f}** (median of {ROUNDS} rounds).",
            entries,
        ]
    )


class Round(NamedTuple):
    """What the clients saw, and the processor time per answer of all processes of the server."""

    load: Load
    cpu_seconds: float


def one_round(port: int, pid: int) -> Round:
    """Load one of the two."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    before = cpu_seconds(processes)
    loaded = load(port, BODY, clients=CLIENTS, seconds=ROUND_SECONDS)
    return Round(loaded, (cpu_seconds(processes) - before) / len(loaded.totals))


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Processor time of some processes so far."""
    times = [process.cpu_times() for process in processes]
    return float(sum(used.user + used.system for used in times))


def comparison(ours: list[Round], theirs: list[Round]) -> str:
    """The table."""
    rows = []
    for name, rounds in (("dia-server", ours), (LITSERVE.replace("==", " "), theirs)):
        seconds = [seconds for one in rounds for seconds in one.load.totals]
        rate = statistics.median(one.load.rate for one in rounds)
        cpu = statistics.median(one.cpu_seconds for one in rounds)
        rows.append([name, f"{rate:.0f}", ms(percentile(seconds, 0.5)), ms(percentile(seconds, 0.99)), ms(cpu)])
    return table([f"{CLIENTS} clients", "Requests/s", "p50", "p99", "Processor time per request, all processes"], rows)


@contextmanager
def litserve(tools: Path) -> Iterator[tuple[int, int]]:
    """LitServe over the same noise; its port and process id."""
    port = free_port()
    command = [f"{tools}/python", str(Path(__file__).with_name("litserve_noise.py")), str(port)]
    with running_peer(command, port) as pid:
        yield port, pid


def profile(tools: Path, pid: int) -> str:
    """Where the HTTP process holds Python's lock, by function; needs the right to look into other processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "stacks"
        options = ["--pid", str(pid), "--duration", str(PROFILE_SECONDS), "--rate", "250", "--gil"]
        command = [f"{tools}/py-spy", "record", *options, "--format", "raw", "--output", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"No profile: py-spy can't look into the server here ({done.stderr.strip().splitlines()[-1]})."
        own = count(file.read_text())
    total = sum(own.values())
    rows = [[f"`{entry}`", f"{samples / total:.1%}"] for entry, samples in own.most_common(PROFILE_ENTRIES)]
    return table(["Where the HTTP process holds Python's lock, by function itself", "Share"], rows)


def count(stacks: str) -> Counter[str]:
    """Samples by function, those of what it calls left out."""
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        own[re.sub(r":\d+\)$", ")", stack.rpartition(";")[2])] += int(samples)
    return own
