"""`max_tokens` ends a clip behind so many of the model's frames, however it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from conftest import Server, make_home, running_server, wait_until
from sound import decode

# A frame of the noise model is a hundredth of a second.
TEXT = "One two three. [pause:100ms] Four five six seven! [S2] Eight nine ten, eleven twelve. Thirteen."
RATE = 44_100


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    lanes = {"speech": {"models": ["noise"], "processes": 2}}
    with running_server(make_home(tmp_path_factory.mktemp("noisy"), {"engine": "noise", "lanes": lanes})) as server:
        server.wait_until_ready()
        yield server


def generate(server: Server, voice: str = "pieces", **fields: Any) -> bytes:
    answer = server.post("/generate", {"text": TEXT, "voice_id": voice, "seed": 3, **fields})
    assert answer.status_code == 200, answer.text
    assert "max_tokens" not in answer.headers.get("x-unused-parameters", "")
    return answer.content


def samples_of(wav: bytes) -> np.ndarray:
    samples, rate = decode(wav, "wav")
    assert rate == RATE
    return samples


@pytest.mark.parametrize("frames", [100, 103, 250])
def test_a_clip_ends_exactly_there(noisy: Server, frames: int) -> None:
    whole = samples_of(generate(noisy))
    assert np.array_equal(samples_of(generate(noisy, max_tokens=frames)), whole[: frames * RATE // 100])


def test_a_shorter_clip_is_whole(noisy: Server) -> None:
    assert generate(noisy, max_tokens=10_000) == generate(noisy)


def test_the_frames_are_those_of_the_model_before_the_speed_is_changed(noisy: Server) -> None:
    assert len(samples_of(generate(noisy, max_tokens=200, speed=2))) == pytest.approx(RATE, rel=0.02)


def test_streams_and_jobs_end_there_too(noisy: Server) -> None:
    assert len(generate(noisy, max_tokens=150, response_format="pcm")) == 2 * 24_000 * 1.5
    body = {"text": TEXT, "voice_id": "pieces", "seed": 3, "max_tokens": 150}
    job = noisy.post("/generate?async_mode=true", body).json()["job_id"]
    wait_until(lambda: noisy.get(f"/jobs/{job}").json()["status"] == "completed")
    assert noisy.get(f"/jobs/{job}/result").content == generate(noisy, max_tokens=150)


def test_the_usage_says_as_many(noisy: Server) -> None:
    answer = noisy.speak(TEXT, "pieces", max_tokens=150, stream_format="sse", response_format="pcm")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events[-1]["usage"]["output_tokens"] == 150


def test_the_workers_stop_there(noisy: Server) -> None:
    done = sum(worker["finished_tasks"] for worker in noisy.workers())
    answer = noisy.post("/generate", {"text": "One two three four five. " * 50, "voice_id": "slow", "max_tokens": 100})
    assert answer.status_code == 200
    wait_until(lambda: noisy.busy() == 0)
    assert sum(worker["finished_tasks"] for worker in noisy.workers()) - done <= 4


def test_a_pause_that_reaches_there_is_cut(noisy: Server) -> None:
    samples = samples_of(generate(noisy, text="One. [pause:5s] Two.", max_tokens=300))
    assert len(samples) == 3 * RATE
    assert not samples[-RATE:].any()
