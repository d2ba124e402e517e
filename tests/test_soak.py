"""Ten minutes of everything at once. Run by `make soak`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest
from scipy.stats import theilslopes

from conftest import SENTENCE, Server, make_home, running_server, wait_until
from test_chaos import KILLS, MEGABYTE, ask_all, hang_up, memory, signals

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
WARM_UP_MINUTES = 1.0
SAMPLE_SECONDS = 5.0
# Comes before the minutes that count: every connection of the database fills a cache of its own, and every kind of work
# some memory that is used again.
WARM_UP_SHARE = 0.5
# After so long all rest, and are counted.
ROUND_SECONDS = 15.0
SPARE_DESCRIPTORS = 12
STEEPEST_MB_PER_MINUTE = 0.5


@contextmanager
def repeating(action: Callable[[], object], pause: float) -> Iterator[None]:
    """The action over and over in a thread; what it raises fails the block's end."""
    over, errors = threading.Event(), []

    def run() -> None:
        try:
            while not over.wait(pause):
                action()
        except Exception as error:  # noqa: BLE001 - handed over to the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors


def slopes(samples: list[tuple[float, dict[int, int]]]) -> dict[int, float]:
    """Growth of each process that lived through all samples, in megabytes per minute; an outlier tilts nothing."""
    minutes = [at / 60 for at, _ in samples]
    pids = set.intersection(*(set(sizes) for _, sizes in samples))
    return {pid: float(theilslopes([sizes[pid] / MEGABYTE for _, sizes in samples], minutes).slope) for pid in pids}


def test_memory_stays_level_under_load_and_hang_ups(tmp_path: Path) -> None:
    dice = random.Random(0)
    with running_server(make_home(tmp_path)) as server:
        server.wait_until_ready()
        started, samples = time.monotonic(), []
        with (
            repeating(lambda: hang_up(server, dice.randrange(1000)), 0.05),
            repeating(lambda: server.speak(seed=dice.randrange(1000), response_format="mp3").raise_for_status(), 0.01),
        ):
            while (elapsed := time.monotonic() - started) < 60 * MINUTES:
                if elapsed > 60 * WARM_UP_MINUTES:
                    samples.append((elapsed, memory(server)))
                time.sleep(SAMPLE_SECONDS)
        wait_until(lambda: server.busy() == 0)
        found = slopes(samples)
        print({pid: round(slope, 3) for pid, slope in found.items()}, "MB a minute")  # noqa: T201
        assert len(found) >= 4
        assert all(slope < STEEPEST_MB_PER_MINUTE for slope in found.values())


class Everything:
    """What clients do, each in its own way; each action asserts what it gets."""

    def __init__(self, server: Server, recordings: list[bytes]) -> None:
        self.server = server
        self.recordings = recordings
        self.dice = random.Random(0)
        self.client = httpx.Client(base_url=server.url, timeout=120)

    def call(self, method: str, path: str, *allowed: int, **options: object) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        assert answer.status_code in (allowed or (200,)), f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer

    def speech(self) -> None:
        audio_format = self.dice.choice(("wav", "mp3", "opus", "aac", "flac", "pcm"))
        fields = {"input": SENTENCE, "voice": "skylark", "response_format": audio_format}
        self.call("POST", "/v1/audio/speech", json=fields | self.dice.choice(({}, {"stream_format": "sse"})))

    def jobs(self) -> None:
        body = {"text": SENTENCE, "voice_id": "skylark", "seed": self.dice.randrange(100)}
        ids = [self.call("POST", "/generate?async_mode=true", json=body).json()["job_id"] for _ in range(4)]
        self.call("DELETE", f"/jobs/{ids.pop()}", 200, 400)
        for job_id in ids:
            assert "event: completed" in self.call("GET", f"/jobs/{job_id}/events").text
            self.call("GET", f"/jobs/{job_id}/result")
        self.call("DELETE", "/jobs")
        self.call("DELETE", "/logs")

    def cloning(self) -> None:
        form = {"prompt_id": "me", "overwrite": "true"}
        recording = ("me.wav", self.dice.choice(self.recordings))
        self.call("POST", "/audio_prompts/upload", data=form, files={"audio_file": recording})
        voice = {"voice_id": "mine", "audio_prompt": "me"}
        self.call("POST", "/voice_mappings", 200, 201, json=voice)
        self.call("POST", "/v1/audio/speech", json={"input": SENTENCE, "voice": "mine", "response_format": "mp3"})
        self.call("DELETE", "/voice_mappings/mine")

    def transcription(self) -> None:
        files = {"file": ("a.wav", self.recordings[0])}
        self.call("POST", "/v1/audio/transcriptions", data={"model": "whisper-1"}, files=files)

    def configuration(self) -> None:
        self.call("PUT", "/config", json={"show_prompts": self.dice.random() < 0.5, "max_queue": 100})

    def leaving(self) -> None:
        hang_up(self.server, self.dice.randrange(1000))


def kill_first(server: Server) -> None:
    """One place's worker; the others live through it all."""
    for worker in server.workers():
        if worker["id"] == "speech-0" and worker["state"] == "up":
            os.kill(worker["pid"], signal.SIGKILL)


def open_things(server: Server) -> tuple[int, set[str]]:
    """How many descriptors the server has open, and the files among them."""
    process = psutil.Process(server.process.pid)
    return process.num_fds(), {Path(file.path).name for file in process.open_files()}


def rest(server: Server) -> None:
    """Until nobody is served, and nobody connected but whoever asks."""
    wait_until(lambda: server.busy() == 0)
    process = psutil.Process(server.process.pid)
    wait_until(lambda: not [each for each in process.net_connections("inet") if each.status == "ESTABLISHED"])


def test_everything_at_once_with_faults_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = {"crash_loop_deaths": 1_000_000, "save_outputs": True, "job_max_attempts": 1000}
    lanes = {"speech": {"models": ["hibari", "noise"], "processes": 3}}
    with running_server(make_home(tmp_path, settings | {"lanes": lanes})) as server:
        server.wait_until_ready()
        recordings = [
            server.speak(SENTENCE * 2, voice, seed=1, response_format="wav").content for voice in ("heron", "wren")
        ]
        started, samples, before = time.monotonic(), [], None
        actions = ["speech", "speech", "jobs", "cloning", "configuration", "leaving"]
        actions += ["transcription"] if find_spec("whisper") else []
        while time.monotonic() - started < 60 * MINUTES * (1 + WARM_UP_SHARE):
            with ExitStack() as load:
                for name in actions:
                    everything = Everything(server, recordings)
                    load.enter_context(closing(everything.client))
                    load.enter_context(repeating(getattr(everything, name), 0.1))
                load.enter_context(repeating(lambda: kill_first(server), 10.0))
                time.sleep(ROUND_SECONDS)
            rest(server)
            elapsed = time.monotonic() - started
            if elapsed > 60 * MINUTES * WARM_UP_SHARE:
                samples.append((elapsed, memory(server)))
                before = before or open_things(server)
        found = slopes(samples)
        names = {worker["pid"]: worker["id"] for worker in server.workers()} | {server.process.pid: "server"}
        for pid, slope in found.items():
            course = " ".join(f"{sizes[pid] / MEGABYTE:.0f}" for _, sizes in samples)
            print(f"{names.get(pid, pid)}: {slope:+.3f} MB a minute: {course}")  # noqa: T201
        assert server.process.pid in found
        assert len(found) >= 3
        assert all(slope < STEEPEST_MB_PER_MINUTE for slope in found.values())
        # The database opens as many connections as are needed at once, and keeps them.
        assert open_things(server)[0] <= before[0] + SPARE_DESCRIPTORS
        assert {name for name in open_things(server)[1] if name.endswith(".part")} == set()
        assert list((tmp_path / "cache" / "tmp").glob("*.part")) == []
        assert list((tmp_path / "outputs").glob(".*")) == []
        assert server.get("/health").json()["status"] == "healthy"
        assert '"status":500' not in server.log()
    # A job that is cancelled just as it ends leaves its file, which is swept an hour later.
    for path in (tmp_path / "tasks").iterdir():
        os.utime(path, (0, 0))
    with running_server(tmp_path):
        wait_until(lambda: list((tmp_path / "tasks").iterdir()) == [])


@pytest.mark.parametrize(("number", "every"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 10.0)])
def test_bodies_stay_the_same_through_minutes_of_signals(tmp_path: Path, number: signal.Signals, every: float) -> None:
    with running_server(make_home(tmp_path, KILLS)) as server:
        server.wait_until_ready()
        quiet = asyncio.run(ask_all(server.url, clients=2))
        deadline = time.monotonic() + 60 * MINUTES / 2
        with signals(server, number, every) as hit:
            while time.monotonic() < deadline:
                assert asyncio.run(ask_all(server.url, clients=16)) == quiet
        assert len(hit) > 1
