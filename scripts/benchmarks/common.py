"""What the benchmarks share: a server of their own, clients, load, tables."""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
import yaml

from dia_server.voices.store import install_starters

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 300.0
SPEECH = "/v1/audio/speech"
SPEECH_RATE = 24_000
PCM_BYTES_PER_SECOND = 2 * SPEECH_RATE
FLOAT_BYTES = 4

TEN_WORDS = "The morning train to the coast leaves at half past."
SIXTY_WORDS = (
    "The morning train to the coast leaves at half past seven. It runs along the river for an hour, through towns "
    "that are hardly awake. A man with a basket gets on at the third stop and sells bread that is still warm. "
    "When the hills end, everybody looks up at once, because there, grey and wide, is the sea."
)
LONG_TEXT = " ".join([SIXTY_WORDS] * 12)

Note = Callable[[str], None]
"""Tells whoever watches what is going on."""


class Benchmark(Protocol):
    """What a module in this folder offers.

    Attributes:
        TITLE: its heading in docs/benchmarks.md.
        MEASURED: one sentence on what is measured and how.
    """

    TITLE: str
    MEASURED: str

    def run(self, note: Note) -> str:
        """Measure; the tables and goals as Markdown."""


def machine() -> str:
    """The processor, as the operating system names it, its cores and the Python."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *rows))


def goal(text: str, result: str, *, met: bool) -> str:
    """A sentence on a goal."""
    return f"Goal: {text}. {'Met' if met else '**Not met**'}: {result}."


def ms(seconds: float) -> str:
    """Milliseconds, for a table's cell."""
    return f"{seconds * 1e3:.1f} ms"


def mb(size: float) -> str:
    """Bytes, for a table's cell."""
    return f"{size / 1e6:.0f} MB"


def median_seconds(action: Callable[[], object], times: int) -> float:
    """Median seconds of an action, after one run that doesn't count."""
    action()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def cores() -> list[int]:
    """The cores that this process may use; empty where the system doesn't let programs choose (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(pid: int, to: Sequence[int]) -> None:
    """Keep all threads of a process on some cores; those that it starts later stay there too."""
    if to:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), to)


class Server:
    """A server process over a temporary home."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """Of the process that answers HTTP."""
        return self.process.pid

    def get(self, path: str) -> str:
        """The body of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def workers(self) -> list[dict[str, Any]]:
        """Its workers, as `GET /workers` has them, without those that only come with work for them."""
        return [worker for worker in json.loads(self.get("/workers"))["workers"] if worker["state"] != "idle"]

    def wait_until_ready(self) -> None:
        """Until all workers are up."""
        deadline = time.monotonic() + READY_SECONDS
        while any(worker["state"] != "up" for worker in self.workers()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the workers don't come up: {self.workers()}")
            time.sleep(0.02)


def lanes(*models: str, processes: int) -> dict[str, Any]:
    """Settings for one lane."""
    return {"lanes": {"speech": {"models": list(models), "processes": processes}}}


@contextmanager
def running_server(
    settings: Mapping[str, Any], voices: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Server]:
    """A ready server; `voices` are options of the noise model by voice id."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        install_starters(home / "voices")
        for name, options in (voices or {}).items():
            (home / "voices" / f"{name}.yaml").write_text(yaml.safe_dump({"models": {"noise": dict(options)}}))
        (home / "config.yaml").write_text(yaml.safe_dump(dict(settings)))
        process, port = start_server(home)
        try:
            server = Server(process, port)
            server.wait_until_ready()
            yield server
        finally:
            stop(process)


def start_server(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A server process on a free port, perhaps not listening yet; its log goes into the home."""
    port = free_port()
    command = [sys.executable, "-m", "dia_server", "serve", "--home", str(home), "--port", str(port)]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
    deadline = time.monotonic() + READY_SECONDS
    while not is_open(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError("the server doesn't start:\n" + (home / "server.log").read_text()[-2000:])
        time.sleep(0.002)
    return process, port


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process, kindly first, and whatever it started and left behind."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def speech(text: str, audio_format: str, **fields: object) -> bytes:
    """The body of a request that streams; the seed is fixed, so that all runs do the same."""
    body = {"input": text, "voice": "skylark", "response_format": audio_format, "seed": 7, "stream": True}
    return json.dumps(body | fields).encode()


class Client:
    """One keep-alive connection to whoever speaks at that path."""

    def __init__(self, port: int, path: str = SPEECH) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
        self._path = path

    def speak(self, body: bytes) -> Iterator[bytes]:
        """Send a request now; the audio as it comes."""
        self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{answer.status}: {answer.read().decode()}")
        while piece := answer.read1(1 << 20):
            yield piece
        answer.close()  # `read1` alone doesn't end an answer that has a Content-Length

    def first_byte(self, body: bytes) -> float:
        """Seconds until the first audio; returns when all of it is there."""
        started = time.perf_counter()
        pieces = self.speak(body)
        next(pieces)
        seconds = time.perf_counter() - started
        for _ in pieces:
            pass
        return seconds

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def listen(port: int, body: bytes, *, clients: int = 1, clips: int = 1) -> int:
    """Get so many clips by so many clients, each over its keep-alive connection; bytes in all."""

    def listen_alone(count: int) -> int:
        client = Client(port)
        size = sum(len(piece) for _ in range(count) for piece in client.speak(body))
        client.close()
        return size

    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(listen_alone, [clips // clients] * clients))


class Load(NamedTuple):
    """What a load generator saw.

    Attributes:
        seconds: how long it ran.
        totals: seconds from request to the end of the answer, for each answer.
    """

    seconds: float
    totals: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.totals) / self.seconds


@contextmanager
def under_load(port: int, body: bytes, *, clients: int, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Keep-alive clients in a process of their own, started; give the process to `load_of` when the time is over."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("load.py")),
        str(port),
        str(clients),
        str(seconds),
        body.decode(),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def load_of(process: subprocess.Popen[bytes]) -> Load:
    """Wait for the load's end."""
    output, _ = process.communicate()
    result = json.loads(output or "{}")
    if not result or result["errors"]:
        raise RuntimeError(f"answers other than 200 under load: {result.get('errors')}")
    return Load(result["seconds"], result["totals"])


def load(port: int, body: bytes, *, clients: int, seconds: float) -> Load:
    """Keep-alive clients for some seconds."""
    with under_load(port, body, clients=clients, seconds=seconds) as process:
        return load_of(process)
