"""Models that die, hang, raise and lie: their own task fails, and everything else goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Server, make_home, running_server, wait_until

PLUGIN = Path(__file__).parent / "plugin"
SETTINGS: dict[str, Any] = {
    "beat_timeout": 0.5,
    "crash_loop_deaths": 1000,
    "lanes": {"speech": {"models": ["noise", "rude", "broken"], "processes": 2}},
}


@pytest.fixture(scope="module")
def rude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=":")
        with running_server(make_home(tmp_path_factory.mktemp("rude"), SETTINGS)) as server:
            server.wait_until_ready()
            yield server


@pytest.fixture(autouse=True)
def _others_are_served(rude: Server) -> Iterator[None]:
    quiet = rude.speak(voice="static", model="noise", seed=1).content
    yield
    wait_until(lambda: rude.busy() == 0)
    assert rude.speak(voice="static", model="noise", seed=1).content == quiet


def ask(server: Server, text: str, audio_format: str = "wav") -> httpx.Response:
    """A whole wav is sent when it is done, so that every failure has its status."""
    return server.speak(text, voice="static", model="rude", response_format=audio_format)


def deaths(server: Server) -> int:
    return sum(worker["deaths"] for worker in server.workers())


@pytest.fixture
def _impatient(rude: Server) -> Iterator[None]:
    """Segments have four seconds, in which no worker could die four times on a slow machine."""

    def give(seconds: int) -> None:
        httpx.put(f"{rude.url}/config", json={"segment_timeout": seconds}).raise_for_status()

    give(4)
    yield
    give(60)


@pytest.mark.parametrize("text", ["Die.", "Hang."])
def test_a_text_that_kills_workers_is_given_up(rude: Server, text: str) -> None:
    before = deaths(rude)
    answer = ask(rude, text)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert answer.headers["x-should-retry"] == "false"
    # The first attempt, and three that got no further.
    assert deaths(rude) == before + 4
    rude.wait_until_ready()


def test_an_exception_fails_its_own_task_only(rude: Server) -> None:
    before = deaths(rude)
    answer = ask(rude, "Raise.")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert "the server's log says why" in answer.json()["error"]["message"]
    wait_until(lambda: "no such phoneme" in rude.log())
    assert deaths(rude) == before


def test_samples_out_of_order_break_the_clip(rude: Server) -> None:
    assert ask(rude, "Lie.").json()["error"]["code"] == "replay_mismatch"


@pytest.mark.usefixtures("_impatient")
def test_a_failure_after_the_first_byte_cuts_the_connection(rude: Server) -> None:
    for text in ("Hello. Raise.", "Drone on and on."):
        with (
            httpx.stream("POST", f"{rude.url}/v1/audio/speech", json=speech(text), timeout=30) as answer,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                pass
    wait_until(lambda: "stream broken" in rude.log())


def events(server: Server, text: str, **fields: object) -> Iterator[dict[str, Any]]:
    body = speech(text) | {"stream_format": "sse", **fields}
    with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=30) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_a_failure_after_the_first_event_is_an_event_and_cuts_the_connection(rude: Server) -> None:
    coming = events(rude, "Hello. Raise.")
    assert next(coming)["type"] == "speech.audio.delta"
    found = []
    with pytest.raises(httpx.RemoteProtocolError):
        found.extend(coming)
    assert found[-1]["error"] == {
        "message": "The model failed on this text; the server's log says why",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }


def test_words_come_before_the_audio_that_they_are_heard_in(rude: Server) -> None:
    text = "Hello. Again."
    told = list(events(rude, text, timestamp_granularities=["word"], speed=2))
    assert [event["type"].removeprefix("speech.audio.") for event in told[:2]] == ["words", "delta"]
    words = [word for event in told if event["type"] == "speech.audio.words" for word in event["words"]]
    assert [word["word"] for word in words] == ["Hello.", "Again."]
    # A second each, at twice the pace.
    assert words[0] | {"end": 0.5} == {"word": "Hello.", "start": 0.0, "end": 0.5}
    assert words[1]["start"] >= 0.5
    assert words[1]["end"] == pytest.approx(words[1]["start"] + 0.5, abs=0.002)
    assert all(event["type"] != "speech.audio.words" for event in events(rude, text))


def speech(text: str) -> dict[str, str]:
    return {"input": text, "voice": "static", "model": "rude", "response_format": "pcm"}


@pytest.mark.usefixtures("_impatient")
def test_a_model_that_never_gets_anywhere_meets_the_deadline(rude: Server) -> None:
    answer = ask(rude, "Think.")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert answer.headers["retry-after"]


def test_a_clip_without_a_sample_is_refused(rude: Server) -> None:
    answer = ask(rude, "Silence.", "mp3")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "nothing_to_speak")


def test_a_model_that_cannot_be_loaded_says_why(rude: Server) -> None:
    answer = rude.speak(voice="static", model="broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "rude pull" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert rude.get("/health").json()["status"] == "degraded"
    assert any("rude pull" in worker["errors"].get("broken", "") for worker in rude.workers())


def test_a_worker_that_dies_at_every_start_leaves_a_server_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN), prepend=":")
    home = make_home(tmp_path, {"crash_loop_wait": 1000, "lanes": {"speech": {"models": ["deadly"], "processes": 1}}})
    with running_server(home) as server:
        wait_until(lambda: server.workers()[0]["state"] == "waiting")
        assert server.workers()[0]["deaths"] == 5
        assert server.get("/health").json()["status"] == "degraded"
        assert server.get("/health?ready").status_code == 503
        answer = server.speak(voice="static", model="deadly")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
        assert answer.headers["retry-after"] == "1000"
