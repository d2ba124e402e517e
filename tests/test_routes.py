"""The routes besides OpenAI's: the Dia contract's, and what an admin looks at."""

from __future__ import annotations

import io
import json
import re
import time
import wave
from pathlib import Path

import httpx
import pytest

import sound
from conftest import SENTENCE, Server, running_server, wait_until
from contract import configured


def test_the_printed_curl_makes_sound(server: Server) -> None:
    wait_until(lambda: "Stop: Ctrl-C" in server.banner)
    command = re.search(r"curl (\S+) -H '(\S+): (\S+)' \\\n +-d '(.*)' -o hello.wav", server.banner)
    assert command is not None
    url, header, value, body = command.groups()
    answer = httpx.post(url, headers={header: value}, content=body, timeout=60)
    assert sound.seconds(answer.content, "wav") > 1


@pytest.mark.parametrize("path", ["/generate", "/v1/generate"])
def test_generate_speaks_like_the_openai_route(server: Server, path: str) -> None:
    fields = {"seed": 42, "temperature": 1.2, "cfg_scale": 3.0, "top_p": 0.95, "speed": 1.0}
    answer = server.post(
        path, {"text": f"[S1] {SENTENCE} [S2] Indeed.", "voice_id": "skylark", "role": "user", **fields}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["content-disposition"] == "attachment; filename=speech.wav"
    assert answer.headers["x-seed"] == "42"
    assert answer.headers["x-unused-parameters"] == "cfg_scale, temperature, top_p"
    assert answer.content == server.speak(f"[S1] {SENTENCE} [S2] Indeed.", seed=42).content
    mp3 = server.post(path, {"text": SENTENCE, "voice_id": "skylark", "response_format": "mp3"})
    assert mp3.headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"text": SENTENCE, "voice_id": "nobody"}, 404, "Voice 'nobody' not found. Available voices: ['finch', "),
        ({"text": "", "voice_id": "skylark"}, 400, "speak"),
        ({"voice_id": "skylark"}, 400, "'text' is required"),
        ({"text": SENTENCE}, 400, "'voice_id' is required"),
        ({"text": SENTENCE, "voice_id": "skylark", "temperature": 2.5}, 400, "'temperature': Expected `float` <= 2.0"),
        ({"text": SENTENCE, "voice_id": "skylark", "cfg_scale": 0.5}, 400, "cfg_scale"),
        ({"text": SENTENCE, "voice_id": "skylark", "top_p": 1.5}, 400, "top_p"),
        ({"text": SENTENCE, "voice_id": "skylark", "max_tokens": 99}, 400, "max_tokens"),
        ({"text": SENTENCE, "voice_id": "skylark", "role": "owner"}, 400, "role"),
        ({"text": SENTENCE, "voice_id": "skylark", "seed": 2**63}, 400, "seed"),
        ({"text": SENTENCE, "voice_id": "skylark", "speed": "fast"}, 400, "speed"),
    ],
)
def test_generate_refuses_in_the_contracts_words(
    server: Server, body: dict[str, object], status: int, words: str
) -> None:
    answer = server.post("/generate", body)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert words in answer.json()["detail"]


def test_seeds(server: Server) -> None:
    drawn = server.speak()
    assert 0 <= int(drawn.headers["x-seed"]) < 2**31
    assert server.speak(seed=int(drawn.headers["x-seed"])).content == drawn.content
    assert server.speak(seed=-1).headers["x-seed"] != server.speak(seed=-1).headers["x-seed"]
    assert server.speak(seed=None, voice_seed=77).headers["x-seed"] == "77"
    assert server.speak(seed=5, voice_seed=77).headers["x-seed"] == "5"
    assert server.speak(seed=2**63 - 1).headers["x-seed"] == str(2**63 - 1)


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.5, 2.0, 3.0, 4.0])
def test_speed_changes_the_length(server: Server, speed: float) -> None:
    text = f"{SENTENCE} " * 3
    plain = sound.seconds(server.speak(text, seed=1).content, "wav")
    paced = sound.seconds(server.speak(text, seed=1, speed=speed).content, "wav")
    # The model's own pauses don't follow exactly; atempo does.
    assert paced == pytest.approx(plain / speed, rel=0.15)


def test_dialogue_pauses_and_nonverbal_tags_are_heard_as_pauses(server: Server) -> None:
    plain = sound.seconds(server.speak("Well. I never knew.", seed=1).content, "wav")
    paused = sound.seconds(server.speak("Well. (laughs) I never knew.", seed=1).content, "wav")
    assert paused > plain + 0.1


def test_unknown_models_are_spoken_by_the_default_one_with_a_warning(server: Server) -> None:
    answer = server.speak(model='no"such\nmodel€')
    assert answer.status_code == 200
    assert answer.headers["x-model"] == "hibari"
    assert "not installed" in answer.headers["warning"]


def test_unknown_models_and_aliases_can_be_refused(server: Server) -> None:
    with configured(server, unknown_models="refuse", voice_aliases={}):
        answer = server.speak(model="nonesuch")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert server.speak(voice="alloy").status_code == 404


def test_voices_are_the_files_in_the_folder(server: Server) -> None:
    listed = server.get("/voices").json()
    assert listed == server.get("/v1/voices").json()
    entry = next(voice for voice in listed["voices"] if voice["id"] == "skylark")
    assert entry == {
        "id": "skylark",
        "voice_id": "skylark",
        "name": "skylark",
        "style": "neutral",
        "primary_speaker": "S1",
        "has_audio_prompt": False,
        "preview_url": "/preview/skylark",
    }
    folder = server.home / "voices"
    (folder / "added.yaml").write_text("voice_seed: 11\n", encoding="utf-8")
    (folder / "broken.yaml").write_text("style: [", encoding="utf-8")
    try:
        listed = server.get("/voices").json()
        assert "added" in [voice["id"] for voice in listed["voices"]]
        assert list(listed["problems"]) == ["broken.yaml"]
        assert server.speak(voice="added").headers["x-seed"] == "11"
    finally:
        (folder / "added.yaml").unlink()
        (folder / "broken.yaml").unlink()
    assert server.get("/voices").json()["problems"] == {}


def test_a_home_with_an_empty_voices_folder_stays_without_voices(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    with running_server(tmp_path) as empty:
        assert empty.get("/voices").json()["voices"] == []
        assert empty.speak().json()["detail"] == "Voice 'skylark' not found. Available voices: []"


def test_health_and_workers(server: Server) -> None:
    health = server.get("/health")
    assert health.status_code == server.get("/health?ready").status_code == 200
    body = health.json()
    assert (body["status"], body["model_loaded"]) == ("healthy", True)
    assert body["timestamp"] == pytest.approx(time.time(), abs=60)
    workers = [worker for worker in server.workers() if worker["lane"] == "speech"]
    assert [worker["id"] for worker in workers] == ["speech-0", "speech-1"]
    assert {worker["fingerprints"]["hibari"] for worker in workers} == {body["fingerprints"]["hibari"]}
    assert len({worker["pid"] for worker in workers}) == 2


def test_metrics_count_what_happened(server: Server) -> None:
    def value(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    completed = value('dia_streams_total{outcome="completed"}')
    seconds = value('dia_audio_seconds_total{model="hibari"}')
    answer = server.speak()
    assert value('dia_streams_total{outcome="completed"}') == completed + 1
    spoken = value('dia_audio_seconds_total{model="hibari"}') - seconds
    assert spoken == pytest.approx(float(answer.headers["x-audio-duration"]), abs=0.001)
    server.get("/v1/models/nonesuch")
    assert value('dia_requests_total{method="GET",route="/v1/models/{model}",status="404"}') >= 1


def test_the_routes_page_needs_no_other_host(server: Server) -> None:
    page = server.get("/schema", follow_redirects=True)
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href)=["']?([^"' >]+)""", page.text)
    assert links
    for link in links:
        assert not link.startswith(("http", "//")), link
        if not link.startswith("data:"):
            assert server.get(link).status_code == 200, link
    document = server.get("/schema/openapi.json").json()
    body = document["paths"]["/v1/audio/speech"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/SpeechBody"}
    speech = document["components"]["schemas"]["SpeechBody"]
    assert speech["required"] == ["input"]


def test_request_ids(server: Server) -> None:
    kept = server.get("/health", headers={"X-Request-ID": "my-id.1"})
    assert kept.headers["x-request-id"] == "my-id.1"
    for unsafe in ("a" * 65, "two words", "ä".encode()):
        answer = server.get("/health", headers={"X-Request-ID": unsafe})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_debug_mode_sends_the_generation_id(server: Server) -> None:
    with configured(server, debug_mode=True):
        answer = server.speak()
        assert answer.headers["x-generation-id"] == answer.headers["x-request-id"]
        wait_until(lambda: answer.headers["x-request-id"] in server.log())


def test_debug_mode_names_fields_that_nobody_knows(server: Server) -> None:
    seen = len(server.log())
    with configured(server, debug_mode=True):
        assert server.speak(chunk_size=5, params={"device": "auto"}).status_code == 200
        wait_until(lambda: "fields ignored" in server.log()[seen:])
        ignored = [line for line in server.log()[seen:].splitlines() if "fields ignored" in line]
        assert [json.loads(line)["fields"] for line in ignored] == [["chunk_size"]]


def test_texts_are_never_logged(server: Server) -> None:
    private = "Nobody should read about the purple walrus."
    with wave.open(io.BytesIO(server.speak(private).content)) as file:
        assert file.getnframes()
    assert "walrus" not in server.log()


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"response_format": "midi"}, "aac, flac, mp3, opus, pcm, wav"),
        ({"params": {"response_format": "midi"}}, "aac, flac, mp3, opus, pcm, wav"),
        ({"stream_format": "video"}, "audio, sse"),
        ({"timestamp_granularities": ["letter"]}, "word"),
    ],
)
def test_a_choice_that_there_is_not_names_those_there_are(
    server: Server, fields: dict[str, object], allowed: str
) -> None:
    refused = server.speak(**fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].endswith(f"; allowed are {allowed}")
