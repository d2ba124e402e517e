"""Whisper, behind OpenAI's routes and the Dia server's: what goes in by one client comes out by another."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import openai
import psutil
import pytest

from conftest import NOISE, Server, make_home, running_server, wait_until
from dia_server.models.stepped import Stepped
from dia_server.models.whisper.weights import BUNDLED, file_of
from dia_server.services.captions import Caption, srt, vtt
from dia_server.settings import WhisperSize
from dia_server.tasks import Done, Failed, Transcribe
from sound import words

TRANSCRIPTIONS, TRANSLATIONS = "/v1/audio/transcriptions", "/v1/audio/translations"
TEXT = "The train came in before noon. An old man with a paper bag was waiting for his daughter."
SECOND = 44_100


@pytest.fixture(scope="module")
def client(listening: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{listening.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def spoken(listening: Server) -> bytes:
    answer = listening.speak(TEXT, seed=1, response_format="wav")
    assert answer.status_code == 200
    return answer.content


def mistakes(heard: str) -> float:
    return float(jiwer.wer(words(TEXT), words(heard)))


def ask(server: Server, sound: bytes, path: str = TRANSCRIPTIONS, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", files={"file": ("a.wav", sound)}, data=fields, timeout=120)


def loud_file(seconds: float) -> bytes:
    """Noise, which Whisper takes its time over."""
    samples = np.random.default_rng(1).integers(-9000, 9000, round(seconds * SECOND), dtype=np.int16)
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, SECOND, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return data.getvalue()


def helper(server: Server, lane: str = "tools") -> dict[str, Any]:
    every = server.get("/workers").json()["workers"]
    return next(worker for worker in every if worker["lane"] == lane)


@pytest.mark.parametrize("response_format", ["json", "text", "srt", "vtt", "verbose_json"])
def test_every_format_is_what_openais_client_takes(client: openai.OpenAI, spoken: bytes, response_format: str) -> None:
    raw = client.audio.transcriptions.with_raw_response.create(
        model="whisper-1", file=("speech.wav", spoken), response_format=response_format, language="en"
    )
    assert raw.headers["x-model"] == f"whisper-{BUNDLED}"
    answer: Any = raw.parse()
    text = answer if isinstance(answer, str) else answer.text
    if response_format in ("srt", "vtt"):
        assert raw.headers["content-type"] == "text/plain; charset=utf-8"
        assert text.startswith("WEBVTT\n\n00:00:0" if response_format == "vtt" else "1\n00:00:0")
        text = " ".join(line for line in text.splitlines()[1:] if line and "-->" not in line and not line.isdigit())
    assert mistakes(text) < 0.1


def test_openais_client_streams(client: openai.OpenAI, spoken: bytes) -> None:
    file = ("speech.wav", spoken)
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, stream=True))
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert mistakes(done.text) < 0.1
    assert "".join(event.delta for event in events[:-1] if event.type == "transcript.text.delta") == done.text
    with pytest.raises(openai.BadRequestError, match="stream needs response_format 'json' or 'text'"):
        client.audio.transcriptions.create(model="whisper-1", file=file, stream=True, response_format="srt")


def test_what_a_drain_breaks_off_is_told_so(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE | {"drain_grace": 1.0})) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, loud_file(240))
        wait_until(lambda: helper(server)["busy"] == 1)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 503
        assert answer.result().json()["error"]["code"] == "draining"
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log()


def test_a_recording_that_went_with_its_listener_is_no_error_of_the_servers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Stepped(lambda task, _: Done(value=Path(task.path).read_text()), "none")
    engine.admit(1, Transcribe(path=str(tmp_path / "gone.wav"), size=BUNDLED))
    assert list(engine.step()) == [(1, Failed("A file that the task needs is not there"))]
    assert "gone.wav is not there" in caplog.text
    assert "Traceback" not in caplog.text


def test_verbose_answers_have_segments_and_words_where_they_are_heard(listening: Server, client: openai.OpenAI) -> None:
    body = {"input": TEXT, "voice": "skylark", "seed": 1, "response_format": "wav"}
    events = {"stream_format": "sse", "timestamp_granularities": ["word"]}
    spoken = listening.post("/v1/audio/speech", body).content
    told = [
        json.loads(line[6:]) for line in listening.post("/v1/audio/speech", body | events).text.splitlines() if line
    ]
    said = [word for event in told if event["type"] == "speech.audio.words" for word in event["words"]]
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=("speech.wav", spoken),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    with wave.open(io.BytesIO(spoken)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert (answer.language, answer.model_extra["task"]) == ("english", "transcribe")
    assert answer.duration == pytest.approx(seconds, abs=0.01)
    assert answer.usage is not None
    assert answer.usage.seconds == answer.duration
    assert answer.words is not None
    assert answer.segments is not None
    assert [segment.id for segment in answer.segments] == list(range(len(answer.segments)))
    assert max(segment.end for segment in answer.segments) <= answer.duration
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    assert [words(word.word) for word in answer.words] == [words(word["word"]) for word in said]
    for heard, word in zip(answer.words, said, strict=True):
        assert heard.start == pytest.approx(word["start"], abs=0.5)
        assert heard.end == pytest.approx(word["end"], abs=0.5)


def test_granularities_choose_what_is_told(listening: Server, spoken: bytes) -> None:
    for name in ("timestamp_granularities", "timestamp_granularities[]"):
        only_words = ask(listening, spoken, response_format="verbose_json", **{name: "word"}).json()
        assert "words" in only_words
        assert "segments" not in only_words
    assert {"words"}.isdisjoint(ask(listening, spoken, response_format="verbose_json").json())


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac"])
def test_what_the_server_speaks_it_understands(listening: Server, audio_format: str) -> None:
    sound = listening.speak(TEXT, seed=1, response_format=audio_format).content
    assert mistakes(ask(listening, sound).json()["text"]) < 0.1


def test_the_same_recording_is_understood_the_same_again(listening: Server, spoken: bytes) -> None:
    first, again = (ask(listening, spoken) for _ in range(2))
    assert first.content == again.content


def test_unknown_fields_and_empty_ones_are_ignored(listening: Server, spoken: bytes) -> None:
    answer = ask(listening, spoken, language="", prompt="", stream="false", **{"include[]": "logprobs"})
    assert mistakes(answer.json()["text"]) < 0.1
    assert ask(listening, spoken, language="English").json() == ask(listening, spoken, language="en-GB").json()


def test_a_prompt_tells_how_names_are_written(listening: Server) -> None:
    sound = listening.speak("Siobhan and Caoimhe are here.", seed=1, response_format="wav").content
    assert "Siobhan" in ask(listening, sound, prompt="Siobhan, Caoimhe").json()["text"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"language": "klingon"}, "language"),
        ({"temperature": "1.5"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"response_format": "docx"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities[0]"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"model": ["a", "b"]}, "model"),
    ],
)
def test_wrong_fields_are_named(listening: Server, spoken: bytes, fields: dict[str, Any], param: str) -> None:
    answer = ask(listening, spoken, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["detail"] == answer.json()["error"]["message"]


FORM = "multipart/form-data; boundary=b"
NO_NAME = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF\r\n--b--\r\n'
TWO = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n' * 2 + b"--b--\r\n"
MANY = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 100 + b"--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "said"),
    [
        ("application/json", b"{}", 415, "multipart/form-data"),
        (None, b"", 415, "multipart/form-data"),
        ("multipart/form-data", b"--b--\r\n", 400, "can't be read"),
        (FORM, b"", 400, "can't be read"),
        (FORM, b"--b--\r\n", 400, "'file' is required"),
        (FORM, NO_NAME, 400, "Failed to process audio file"),
        (FORM, TWO, 400, "'file' is there twice"),
        (FORM, TWO[:60], 400, "can't be read"),
        (FORM, MANY, 400, "can't be read"),
        (FORM, b"no form", 400, "can't be read"),
    ],
)
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_what_is_no_form_with_a_file_is_refused(
    listening: Server, path: str, content_type: str | None, body: bytes, status: int, said: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = httpx.post(listening.url + path, content=body, headers=headers, timeout=30)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text


@pytest.mark.parametrize("sound", [b"", b"hello", b"RIFF\0\0\0\0WAVE", os.urandom(5000)])
def test_what_is_no_sound_is_refused(listening: Server, sound: bytes) -> None:
    answer = ask(listening, sound)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert "Failed to process audio file" in answer.json()["detail"]


def test_too_much_of_a_file_is_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path, NOISE | {"max_upload_bytes": 300_000, "max_transcription_seconds": 2})
    with running_server(home) as server:
        assert ask(server, loud_file(3.0)).status_code == 400
        too_large = ask(server, loud_file(4.0))
        assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "body_too_large")
        assert list((home / "cache" / "tmp").glob("*.part")) == []


def test_english_weights_refuse_other_languages(listening: Server, spoken: bytes) -> None:
    for answer in (ask(listening, spoken, TRANSLATIONS), ask(listening, spoken, language="de")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        assert "whisper_model_size" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"


def test_without_the_extra_the_answer_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoken: bytes
) -> None:
    # Python takes a module that stands in this table as None for one that isn't there.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['whisper'] = None\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    home = make_home(tmp_path / "home")
    with running_server(home) as server:
        for answer in (ask(server, spoken), server.post("/v1/whisper/load")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
            assert "pip install 'dia-server[whisper]'" in answer.json()["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"
        assert server.get("/whisper/status").json()["available"] is False
        assert server.get("/health").json()["status"] != "degraded"
        assert server.speak().status_code == 200
    command = [sys.executable, "-m", "dia_server"]
    told = [
        subprocess.run(
            [*command, name, "--home", str(home)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "400"},
        ).stdout
        for name in ("models", "doctor")
    ]
    assert "not installed: whisper" in told[0]
    assert "pip install 'dia-server[whisper]'" in told[1]


def test_whisper_comes_when_it_is_asked_for_and_goes_when_it_is_idle(tmp_path: Path) -> None:
    lanes = {"speech": {"models": ["noise"]}, "tools": {"models": ["whisper"], "idle_timeout": 1.5, "task_timeout": 60}}
    with running_server(make_home(tmp_path, {"engine": "noise", "lanes": lanes})) as server:
        before = server.get("/whisper/status").json()
        assert before == {"available": True, "model_loaded": False, "model_size": BUNDLED, "auto_transcribe": False}
        assert helper(server)["pid"] is None
        loaded = server.post("/whisper/load")
        assert (loaded.status_code, loaded.json()["model_size"]) == (200, BUNDLED)
        assert server.get("/v1/whisper/status").json() == before | {"model_loaded": True}
        process = psutil.Process(helper(server)["pid"])
        wait_until(lambda: helper(server)["state"] == "idle")
        assert not process.is_running()
        assert server.get("/whisper/status").json() == before
        assert helper(server)["deaths"] == 0


def test_a_listener_that_leaves_gives_the_slot_back(listening: Server, spoken: bytes) -> None:
    host, port = listening.url.removeprefix("http://").split(":")
    request = httpx.Request("POST", listening.url + TRANSCRIPTIONS, files={"file": ("a.wav", loud_file(240))})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        wait_until(lambda: helper(listening)["busy"] == 1)
        time.sleep(0.5)
        pid = helper(listening)["pid"]
    wait_until(lambda: helper(listening)["busy"] == 0)
    wait_until(lambda: '"status":499' in listening.log())
    assert mistakes(ask(listening, spoken).json()["text"]) < 0.1
    assert helper(listening)["pid"] == pid


def test_a_transcription_outlives_its_worker(listening: Server, spoken: bytes) -> None:
    assert listening.post("/whisper/load").status_code == 200
    deaths = helper(listening)["deaths"]
    os.kill(helper(listening)["pid"], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, listening, spoken)
        wait_until(lambda: helper(listening)["busy"] == 1)
        os.kill(helper(listening)["pid"], signal.SIGKILL)
        assert mistakes(asked.result().json()["text"]) < 0.1
    assert helper(listening)["deaths"] == deaths + 1


CUT_OFF = """
import fcntl, json, socket, struct, sys
from pathlib import Path

with socket.socket() as loopback:
    # SIOCSIFFLAGS: up and running.
    fcntl.ioctl(loopback, 0x8914, struct.pack("16sh14x", b"lo", 0x41))

import httpx
from conftest import NOISE, make_home, running_server

sound = Path(sys.argv[2]).read_bytes()
home = make_home(Path(sys.argv[1]), NOISE | {"whisper_model_size": "base"})
with running_server(home) as server:
    for is_strict in (False, True):
        httpx.put(f"{server.url}/config", json={"whisper_strict": is_strict}).raise_for_status()
        for route in ("transcriptions", "translations"):
            files = {"file": ("a.wav", sound)}
            answer = httpx.post(f"{server.url}/v1/audio/{route}", files=files, timeout=120)
            print(json.dumps([answer.status_code, answer.headers.get("x-model"), answer.json()]))
        print(json.dumps(server.get("/whisper/status").json()))
"""


def test_with_the_network_cut_off_the_bundled_weights_stand_in(tmp_path: Path, spoken: bytes) -> None:
    space = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*space, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    sound = tmp_path / "spoken.wav"
    sound.write_bytes(spoken)
    ran = subprocess.run(
        [*space, sys.executable, "-c", CUT_OFF, str(tmp_path / "home"), str(sound)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert ran.returncode == 0, ran.stderr
    heard, translated, status, strict, strict_translated, _ = map(json.loads, ran.stdout.splitlines())
    assert heard[:2] == [200, f"whisper-{BUNDLED}"]
    assert mistakes(heard[2]["text"]) < 0.1
    assert translated[0] == 503
    assert "dia-server models pull whisper" in translated[2]["error"]["message"]
    assert (status["model_loaded"], status["model_size"]) == (True, BUNDLED)
    for refused in (strict, strict_translated):
        assert (refused[0], refused[2]["error"]["code"]) == (503, "model_unavailable")
        assert "Check the connection" in refused[2]["error"]["message"]


def test_pull_fetches_the_size_of_the_settings_alone(tmp_path: Path) -> None:
    home = make_home(tmp_path, {"whisper_model_size": "small"})
    command = [sys.executable, "-m", "dia_server", "models", "pull", "whisper", "--home", str(home)]
    # A proxy that nobody listens at stands for no connection, wherever the test runs.
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9"}
    pulled = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert pulled.returncode == 1
    assert "small: Whisper's small weights, many languages, 483.6 MB, MIT" in pulled.stdout.replace("\n", " ")
    assert "Check the connection" in pulled.stderr


def test_the_sizes_are_those_of_the_package() -> None:
    import whisper

    theirs = whisper._MODELS  # noqa: SLF001 - there is no public list with addresses
    assert set(WhisperSize.__args__) == set(theirs)  # type: ignore[attr-defined]
    assert {size: file_of(size).url for size in theirs if size != BUNDLED} == {
        size: url for size, url in theirs.items() if size != BUNDLED
    }


def test_captions_are_numbered_or_not() -> None:
    captions = [Caption(0.0, 1.5, "One."), Caption(3599.9996, 3661.25, "Two.")]
    assert srt(captions) == "1\n00:00:00,000 --> 00:00:01,500\nOne.\n\n2\n01:00:00,000 --> 01:01:01,250\nTwo.\n"
    assert vtt(captions) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne.\n\n01:00:00.000 --> 01:01:01.250\nTwo.\n"
