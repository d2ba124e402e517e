"""A real server process, over a home of its own, for tests to talk to."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from postgres import Postgres, running_postgres
from schedule import pytest_xdist_make_scheduler  # noqa: F401 - a hook

if TYPE_CHECKING:
    from cards import Write
    from dia_server.database.database import Database
    from dia_server.models.dia.codec import Codec
    from dia_stage import Stage
    from job_world import World

# Where pytest sees that it runs in a CI, it explains unequal values line by line; for clips that takes hours.
for variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(variable, None)

# Nothing here speaks TLS, but httpx would read all authorities for each request, which takes longer than the request.
ssl.create_default_context = cache(ssl.create_default_context)

# Shells let what runs in their background ignore SIGINT, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

START_SECONDS = 60
STARTERS = ("skylark", "heron", "robin", "owl", "wren", "finch", "swan", "jay", "raven", "nightjar")
SENTENCE = "The quick brown fox jumps over the lazy dog."

NOISE_VOICES = {
    "static": {},
    "pieces": {"event_samples": 3000, "ragged": True},
    "slow": {"event_samples": 2205, "event_seconds": 0.05},
}

# The weights that need no network, and they are loaded for tests of them alone.
QUIET = {"whisper_model_size": "tiny.en", "auto_discover_prompts": False, "auto_transcribe": False}
# What is not about sound starts and speaks soonest by noise.
NOISE = {"engine": "noise", "lanes": {"speech": {"models": ["noise"], "processes": 1}}}
# Each process that speaks takes a second of a processor to start.
ONE_WORKER = {"lanes": {"speech": {"processes": 1}}}
AUTOMATIC = {"auto_discover_prompts": True, "auto_transcribe": True}
needs_whisper = pytest.mark.skipif(find_spec("whisper") is None, reason="Whisper is an extra, and not installed here")
needs_dia = pytest.mark.skipif(find_spec("transformers") is None, reason="Dia is an extra, and not installed here")


class Server:
    """A running `dia-server serve`."""

    def __init__(self, home: Path, process: subprocess.Popen[str]) -> None:
        self.home = home
        self.process = process
        self.banner = ""
        self.headers: dict[str, str] = {}
        self.url = self._wait_for_url()
        # Whoever stops reading a pipe stops its writer.
        self._reader = threading.Thread(target=self._read_rest)
        self._reader.start()

    def _wait_for_url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner += line
            if line.startswith("dia-server "):
                return line.split()[-1]
        raise AssertionError(f"the server ended with {self.process.wait()}:\n{self.log()}")

    def _read_rest(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.banner += line

    def close(self) -> None:
        """Let go of the ended process."""
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def log(self) -> str:
        """What it wrote to stderr."""
        return (self.home / "stderr.log").read_text(encoding="utf-8")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **self._with_headers(options))

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=120, **self._with_headers(options))

    @contextmanager
    def waiting_client(self, path: str, body: dict[str, Any]) -> Iterator[None]:
        """A client that has sent its request, reads nothing, and hangs up at the end of the block."""
        host, port = self.url.removeprefix("http://").split(":")
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + content)
            yield

    def _with_headers(self, options: dict[str, Any]) -> dict[str, Any]:
        return options | {"headers": self.headers | options.get("headers", {})}

    def speak(self, text: str = SENTENCE, voice: str = "skylark", **fields: Any) -> httpx.Response:
        return self.post("/v1/audio/speech", {"input": text, "voice": voice, **fields})

    def workers(self) -> list[dict[str, Any]]:
        """The workers, without the places that stay empty until there is work for them."""
        return [worker for worker in self.get("/workers").json()["workers"] if worker["state"] != "idle"]

    def busy(self) -> int:
        return sum(worker["busy"] for worker in self.workers())

    def wait_until_ready(self, count: int | None = None) -> None:
        """Until so many workers are up, all by default."""
        wait_until(lambda: sum(w["state"] == "up" for w in self.workers()) >= (count or len(self.workers())))


def wait_until(condition: Any, seconds: float = START_SECONDS) -> None:
    """Wait for a condition; fail when it doesn't come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def make_home(home: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """A home with the starter voices, noise in several manners, and one worker that speaks."""
    from dia_server.voices.store import install_starters

    home.mkdir(parents=True, exist_ok=True)
    install_starters(home / "voices")
    for name, options in NOISE_VOICES.items():
        (home / "voices" / f"{name}.yaml").write_text(yaml.safe_dump({"models": {"noise": options}}), encoding="utf-8")
    (home / "config.yaml").write_text(yaml.safe_dump({**QUIET, **ONE_WORKER, **(settings or {})}), encoding="utf-8")
    return home


@contextmanager
def running_server(home: Path, *arguments: str) -> Iterator[Server]:
    """A server over an existing home, on a free port."""
    command = [sys.executable, "-m", "dia_server", "serve", "--home", str(home), "--port", "0", *arguments]
    with (home / "stderr.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ))
    server = Server(home, process)
    try:
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        server.close()


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test opens as a home here must not be where later ones keep their files."""
    environment, folder = dict(os.environ), tempfile.tempdir
    yield
    tempfile.tempdir = folder
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share, with the default settings."""
    lanes = {"speech": {"processes": 2}}
    with running_server(make_home(tmp_path_factory.mktemp("home"), {"lanes": lanes})) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def seraphina(server: Server) -> Iterator[Server]:
    """The shared server with the voice of the Dia contract's examples, which imitates a recording."""
    from prompts import recording

    said = recording("slt")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        form = {"prompt_id": "seraphina_prompt"}
        files = {"audio_file": ("seraphina.flac", said.file)}
        client.post("/audio_prompts/upload", data=form, files=files).raise_for_status()
        client.put(
            "/audio_prompts/seraphina_prompt/transcript", json={"transcript": said.transcript}
        ).raise_for_status()
        fields = {"style": "conversational", "primary_speaker": "S1", "audio_prompt": "seraphina_prompt"}
        client.post("/voice_mappings", json={"voice_id": "seraphina_voice", **fields}).raise_for_status()
        yield server
        client.delete("/voice_mappings/seraphina_voice").raise_for_status()
        client.delete("/audio_prompts/seraphina_prompt").raise_for_status()


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python in an environment of its own, without a package, for programs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def tiny_dia(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with a tiny Dia and its codec, weights at random; for tests that `needs_dia`."""
    from tiny_dia import write_tiny_dia

    return write_tiny_dia(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def codec(tiny_dia: tuple[Path, Path]) -> Codec:
    """The tiny Dia's."""
    import torch

    from dia_server.models.dia.codec import load_codec

    return load_codec(tiny_dia[1], torch.device("cpu"))


@pytest.fixture(scope="module")
def whole_stage(tiny_dia: tuple[Path, Path], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    from dia_stage import Stage

    return Stage(tiny_dia[0], codec, tmp_path_factory.mktemp("codes"))


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    """The tiny Dia's engine, which has attempted nothing yet."""
    whole_stage.attempts.clear()
    return whole_stage


@pytest.fixture(scope="session")
def listening(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that writes recordings down by itself; it was killed while it listened to `early.wav`."""
    home = make_home(tmp_path_factory.mktemp("listening"), AUTOMATIC)
    (home / "audio_prompts").mkdir()
    (home / "audio_prompts" / "early.wav").write_bytes(server.speak(SENTENCE, seed=1, response_format="wav").content)
    with running_server(home) as killed:
        wait_until(killed.busy)
        killed.process.kill()
    with running_server(home) as running:
        running.wait_until_ready()
        wait_until(lambda: running.get("/audio_prompts/metadata/early").json()["transcript"])
        yield running
        assert list((home / "cache" / "tmp").glob("*.part")) == []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL that the tests share, each with a database of its own."""
    with running_postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The setting for an empty database of either kind."""
    if request.param == "sqlite":
        return ""
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """That database, with its tables."""
    from dia_server.database.database import open_database
    from dia_server.settings import Settings

    async with open_database(Settings(database_url=database_url), tmp_path) as opened:
        yield opened


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> World:
    """Jobs in it, and all who write there."""
    from job_world import World

    return World(database, tmp_path)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Says which GPUs the stand-in for NVML has, for processes started after the first time."""
    from cards import HERE, STAND_IN, writer
    from dia_server.pool import nvml

    file = tmp_path / "gpus.json"
    monkeypatch.setenv("STAND_IN_GPUS", str(file))
    monkeypatch.setenv("PYTHONPATH", f"{STAND_IN.parent}:{HERE / 'plugin'}", prepend=":")
    monkeypatch.delenv(nvml.VISIBLE, raising=False)
    return writer(file)
