"""Dia through the whole server: real workers, real clients, a network with random weights."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from openai import OpenAI

from conftest import Server, make_home, needs_dia, running_server, wait_until
from prompts import recording
from test_chaos import MEGABYTE

pytestmark = needs_dia

SLOTS = 4
WORKERS = 2
KILLS = 3
LEVEL_BYTES, MOST_ROUNDS = 8 * MEGABYTE, 7
# A network with random weights hardly ever ends by itself; this is when the clip does, in frames.
SHORT = 100
DIALOGUE = (
    "[S1] The morning train to the coast leaves at half past seven. [S2] And it is hardly ever late (laughs), I am "
    "told. [S1] We should take it tomorrow, before the rain comes. [S2] Then I will pack the basket tonight, with "
    "bread and cheese. "
) * 2
SETTINGS = {
    "lanes": {"speech": {"models": ["dia"], "processes": WORKERS}},
    # For what kills workers again and again.
    "crash_loop_deaths": 1000,
    "task_strikes": 1000,
}


@pytest.fixture(scope="module")
def home(tiny_dia: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, codec = tiny_dia
    setup = {"weights": str(model), "codec": str(codec), "slots": SLOTS}
    return make_home(tmp_path_factory.mktemp("dia"), SETTINGS | {"engine": "dia", "models": {"dia": setup}})


@pytest.fixture(scope="module")
def speaking(home: Path) -> Iterator[Server]:
    with running_server(home) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def dialogue(speaking: Server) -> bytes:
    """What the dialogue sounds like when nobody else speaks."""
    answer = speaking.speak(DIALOGUE, seed=7, response_format="pcm")
    assert (answer.status_code, answer.headers["x-model"]) == (200, "dia")
    return answer.content


def deaths(server: Server) -> int:
    return sum(worker["deaths"] for worker in server.workers())


def test_the_sdk_streams_what_a_whole_answer_holds(speaking: Server, dialogue: bytes) -> None:
    client = OpenAI(base_url=f"{speaking.url}/v1", api_key="none", max_retries=0)
    wanted = {"model": "tts-1", "voice": "skylark", "input": DIALOGUE, "response_format": "pcm"}
    with client.audio.speech.with_streaming_response.create(**wanted, extra_body={"seed": 7}) as answer:
        pieces = list(answer.iter_bytes(4096))
    assert len(pieces) > 1
    assert b"".join(pieces) == dialogue


def test_neither_tenants_nor_workers_change_a_byte(speaking: Server, dialogue: bytes) -> None:
    def ask(number: int) -> bytes:
        # Every other client asks for the dialogue; the ones between take slots, and give them back.
        if number % 2:
            return speaking.speak("[S1] Somebody else.", seed=number, max_tokens=SHORT).content
        return speaking.speak(DIALOGUE, seed=7, response_format="pcm").content

    with ThreadPoolExecutor(2 * SLOTS) as clients:
        answers = list(clients.map(ask, range(2 * SLOTS)))
    assert {each == dialogue for each in answers[::2]} == {True}


def test_workers_that_die_in_the_middle_change_no_byte(speaking: Server, dialogue: bytes) -> None:
    over = threading.Event()

    def kill() -> None:
        for _ in range(KILLS):
            while not over.is_set() and not speaking.busy():
                over.wait(0.01)
            for worker in speaking.workers():
                if worker["busy"] and not over.is_set():
                    os.kill(worker["pid"], signal.SIGKILL)

    before = deaths(speaking)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        heard = speaking.speak(DIALOGUE, seed=7, response_format="pcm").content
    finally:
        over.set()
        killer.join()
    assert heard == dialogue
    assert deaths(speaking) > before
    speaking.wait_until_ready()


def test_a_client_that_leaves_gives_its_slot_back(speaking: Server) -> None:
    body = json.dumps({"input": DIALOGUE, "voice": "skylark", "seed": 7, "params": {"judge": "segment"}}).encode()
    host, port = speaking.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(speaking.busy)
    wait_until(lambda: speaking.busy() == 0)


def test_a_job_has_the_bytes_of_an_answer(speaking: Server) -> None:
    body = {"text": "[S1] Good morning.", "voice_id": "skylark", "seed": 3, "max_tokens": SHORT}
    job = speaking.post("/generate?async_mode=true", body).json()["job_id"]
    wait_until(lambda: speaking.get(f"/jobs/{job}").json()["status"] == "completed")
    assert speaking.get(f"/jobs/{job}/result").content == speaking.post("/generate", body).content


@pytest.fixture(scope="module")
def recorded(speaking: Server) -> Server:
    """With the voices ada and ben, who have recordings."""
    for name, said in (("ada", recording("slt")), ("ben", recording("rms"))):
        form, files = {"prompt_id": name}, {"audio_file": ("it.flac", said.file)}
        httpx.post(f"{speaking.url}/audio_prompts/upload", data=form, files=files, timeout=60).raise_for_status()
        transcript = {"transcript": said.transcript}
        httpx.put(f"{speaking.url}/audio_prompts/{name}/transcript", json=transcript).raise_for_status()
        speaking.post("/voice_mappings", {"voice_id": name, "audio_prompt": name}).raise_for_status()
    return speaking


def test_two_voices_with_recordings_speak_to_each_other(home: Path, recorded: Server) -> None:
    ada = home / "voices" / "ada.yaml"
    ada.write_text(ada.read_text(encoding="utf-8") + "speakers: {S2: ben}\n", encoding="utf-8")
    answers = [
        recorded.speak("[S1] Hello. [S2] Hello!", voice, seed=2, response_format="pcm", max_tokens=SHORT)
        for voice in ("ada", "ada", "ben")
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].content == answers[1].content != answers[2].content


def test_after_a_restart_a_seed_has_the_same_bytes(home: Path, speaking: Server, dialogue: bytes) -> None:
    del speaking  # it has its own database and port; the home's cache is what both share
    settings = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
    settings["lanes"]["speech"]["processes"] = 1
    with running_server(make_home(home.parent / "again", settings)) as server:
        server.wait_until_ready()
        assert server.speak(DIALOGUE, seed=7, response_format="pcm").content == dialogue


def test_two_hundred_mixed_requests_leave_no_slot_and_no_memory_taken(recorded: Server) -> None:
    dice, lock = random.Random(0), threading.Lock()

    def ask(_number: int) -> int:
        with lock:
            length, seed, kind = dice.randrange(5, 60), dice.randrange(1000), dice.randrange(8)
        fields = {"input": "[S1] " + "la " * length, "voice": "skylark", "seed": seed, "max_tokens": SHORT}
        match kind:
            case 0:
                fields["response_format"] = "mp3"
            case 1:
                fields |= {"voice": "ben", "params": {"cfg_scale": 1.0}}
            case 2:
                fields["input"] = "[S1] \x00"
            case 3:
                fields["params"] = {"temperature": 9}
            case 4 | 5 | 6:
                # Leaves when the first sound is there; a wav's head waits for the last.
                fields["response_format"] = "pcm"
                with httpx.stream("POST", f"{recorded.url}/v1/audio/speech", json=fields, timeout=120) as answer:
                    return answer.status_code
        return recorded.speak(fields.pop("input"), fields.pop("voice"), **fields).status_code

    def hundred() -> dict[int, int]:
        with ThreadPoolExecutor(2 * SLOTS) as clients:
            assert set(clients.map(ask, range(100))) <= {200, 400}
        wait_until(lambda: recorded.busy() == 0)
        workers = [worker for worker in recorded.workers() if worker["lane"] == "speech"]
        return {worker["pid"]: psutil.Process(worker["pid"]).memory_info().rss for worker in workers}

    # What is prepared for each shape takes memory at first; what leaks never stops.
    rounds = [hundred(), hundred()]
    while any(rounds[-1][pid] - rounds[-2][pid] > LEVEL_BYTES for pid in rounds[0]):
        assert len(rounds) < MOST_ROUNDS
        rounds.append(hundred())
    assert len(rounds[0]) == WORKERS


def test_a_model_that_says_nothing_is_not_blamed_on_the_text(tmp_path: Path) -> None:
    from tiny_dia import mute_model, write_tiny_dia

    weights, codec = write_tiny_dia(tmp_path / "mute", mute_model())
    setup = {"weights": str(weights), "codec": str(codec), "slots": 1}
    lanes = {"speech": {"models": ["dia"], "processes": 1}}
    home = make_home(tmp_path / "home", {"engine": "dia", "lanes": lanes, "models": {"dia": setup}})
    with running_server(home) as server:
        server.wait_until_ready()
        answer = server.speak("[S1] Good morning.", seed=1)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (500, "server_error", "generation_failed")
        assert error["message"].startswith("Model 'dia' said nothing, however often it began anew; another seed")
        assert answer.headers["x-should-retry"] == "false"
        body = {"text": "[S1] Good morning.", "voice_id": "skylark", "seed": 1}
        answer = server.post("/generate", body)
        assert (answer.status_code, answer.json()) == (500, {"detail": error["message"]})
        job = server.post("/generate?async_mode=true", body).json()["job_id"]
        wait_until(lambda: server.get(f"/jobs/{job}").json()["status"] == "failed")
        assert error["message"] in server.get(f"/jobs/{job}/result").json()["detail"]
        assert 'dia_findings_total{finding="silent",model="dia"} 3.0' in server.get("/metrics").text
        line = next(line for line in server.log().splitlines() if "segment sounds wrong" in line)
        assert "judge: segment" in line
        assert "made anew" in server.log()
        nothing = server.speak("[S1] ...", seed=1)
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (400, "nothing_to_speak")
