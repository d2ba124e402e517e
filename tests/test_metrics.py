"""`/metrics` after real traffic, and the page that explains it."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import SENTENCE, Server, make_home, running_server, wait_until

PLUGIN = Path(__file__).parent / "plugin"
PAGE = Path(__file__).parent.parent / "docs" / "operations.md"
SETTINGS: dict[str, Any] = {
    "engine": "noise",
    "lanes": {"speech": {"models": ["noise", "rude", "duet"], "processes": 1}},
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one worker with one slot, and models that misbehave."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=":")
        with running_server(make_home(tmp_path_factory.mktemp("busy"), SETTINGS)) as server:
            server.wait_until_ready()
            yield server


class Metrics:
    """What has changed since it was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        lines = self._server.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def now(self, name: str) -> float:
        return self._read()[name]

    def grown(self, name: str) -> float:
        return self.now(name) - self._before.get(name, 0.0)


@contextmanager
def listener(server: Server) -> Iterator[None]:
    """Somebody who listens to a long clip, and leaves at the end of the block."""
    body = {"input": SENTENCE * 20, "voice": "slow", "response_format": "pcm"}
    left = threading.Event()

    def listen() -> None:
        with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=30) as answer:
            for _ in answer.iter_raw():
                if left.is_set():
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def test_a_clip(busy: Server) -> None:
    metrics = Metrics(busy)
    answer = busy.speak(voice="static")
    seconds = float(answer.headers["x-audio-duration"])
    assert metrics.grown('dia_requests_total{method="POST",route="/v1/audio/speech",status="200"}') == 1
    assert metrics.grown('dia_request_seconds_count{route="/v1/audio/speech"}') == 1
    assert metrics.grown('dia_streams_total{outcome="completed"}') == 1
    assert metrics.grown("dia_first_audio_seconds_count") == 1
    assert metrics.grown('dia_audio_seconds_total{model="noise"}') == pytest.approx(seconds, abs=0.001)
    assert metrics.grown('dia_real_time_factor_count{model="noise"}') == 1
    took = metrics.grown('dia_request_seconds_sum{route="/v1/audio/speech"}')
    assert 0 < metrics.grown('dia_real_time_factor_sum{model="noise"}') <= took / seconds
    assert metrics.now("dia_event_loop_lag_seconds_count") > 0


def test_a_queue(busy: Server) -> None:
    metrics = Metrics(busy)
    assert metrics.now('dia_workers{lane="speech"}') == metrics.now('dia_slots{lane="speech"}') == 1
    with listener(busy):
        wait_until(lambda: metrics.now('dia_slots_busy{lane="speech"}') == 1)
        with listener(busy):
            wait_until(lambda: metrics.now("dia_clips") == 2)
            assert metrics.now("dia_clips_waiting") == 1
            assert metrics.now('dia_queue_segments{lane="speech"}') >= 1
    wait_until(lambda: metrics.now("dia_clips") == metrics.now('dia_slots_busy{lane="speech"}') == 0)
    wait_until(lambda: metrics.grown('dia_streams_total{outcome="aborted"}') == 2)
    assert metrics.now('dia_queue_segments{lane="speech"}') == 0


def test_a_worker_that_dies(busy: Server) -> None:
    metrics = Metrics(busy)
    with listener(busy):
        wait_until(busy.busy)
        os.kill(busy.workers()[0]["pid"], signal.SIGKILL)
        wait_until(lambda: metrics.grown('dia_replays_total{lane="speech"}') >= 1)
        assert metrics.grown('dia_worker_deaths_total{lane="speech"}') == 1
    assert metrics.grown('dia_replay_mismatches_total{lane="speech"}') == 0
    busy.wait_until_ready()


def test_a_model_that_does_not_repeat_itself(busy: Server) -> None:
    metrics = Metrics(busy)
    assert (
        busy.speak("Lie.", voice="static", model="rude", response_format="wav").json()["error"]["code"]
        == "replay_mismatch"
    )
    assert metrics.grown('dia_replay_mismatches_total{lane="speech"}') == 1
    assert metrics.grown('dia_streams_total{outcome="failed"}') == 1


def test_every_metric_is_explained(busy: Server) -> None:
    busy.speak(voice="static")
    busy.speak("Now hush.", voice="static", model="duet")
    text = busy.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (dia_\S+) (\S+)$", text, re.MULTILINE))
    sent = {
        (name, kind, ", ".join(sorted({label for label in _labels(text, name) if label != "le"})))
        for name, kind in kinds.items()
        if not name.endswith("_created")
    }
    page = PAGE.read_text(encoding="utf-8")
    told = {
        (name, kind, ", ".join(sorted(re.findall(r"\w+", labels))))
        for name, kind, labels in re.findall(r"^\| `(dia_\w+)` \| (\w+) \|([\w`, ]*)\|", page, re.MULTILINE)
    }
    assert sent == told


def _labels(text: str, name: str) -> list[str]:
    return [
        label
        for found in re.findall(rf"^{name}(?:_bucket)?{{(.*)}} ", text, re.MULTILINE)
        for label in re.findall(r'(\w+)="', found)
    ]
