"""Clients as they are deployed: their requests to the byte, and the answers read the way they read them."""

from __future__ import annotations

import http.client
import io
import json
import struct
import wave
from collections.abc import Iterator
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest

import sound
from browser import Page
from conftest import SENTENCE, Server

SILLY_TAVERN = Page("http://localhost:8000")
NODE_FETCH = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate, br", "User-Agent": "node-fetch"}
TTS_WEBUI_PARAMS = {
    "desired_length": 80, "max_length": 200, "halve_first_chunk": True, "exaggeration": 0.5, "cfg_weight": 0.5,
    "temperature": 0.8, "device": "auto", "dtype": "float32", "cpu_offload": False, "chunked": True,
    "cache_voice": False, "tokens_per_slice": 1000, "remove_milliseconds": 45, "remove_milliseconds_start": 25,
    "chunk_overlap_method": "zero", "seed": -1,
}  # fmt: skip
OPEN_WEBUI = {
    "Content-Type": "application/json",
    "Authorization": "Bearer ",
    "X-OpenWebUI-User-Name": "Ada%20L.",
    "X-OpenWebUI-User-Role": "user",
}


def send(server: Server, path: str, headers: dict[str, str], body: object) -> tuple[int, Message, bytes]:
    """A POST with these headers and no others, except what no client can leave out."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    content = json.dumps(body).encode()
    try:
        connection.putrequest("POST", path, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def is_mp3(data: bytes) -> bool:
    """Frames from the first byte on, without a tag before them."""
    return data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and sound.seconds(data, "mp3") > 0


class TestSillyTavernOpenAICompatible:
    """npm sillytavern 1.19: src/endpoints/openai.js calls the full URL that the user typed."""

    @pytest.mark.parametrize("voice", ["alloy", " nova"])
    def test_the_answer_is_mp3_without_a_key_and_with_blanks_around_the_voice(self, server: Server, voice: str) -> None:
        body = {"input": SENTENCE, "response_format": "mp3", "voice": voice, "speed": 1, "model": "tts-1"}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer ", **NODE_FETCH}
        status, answer, data = send(server, "/v1/audio/speech", headers, body)
        assert status == 200
        # It labels whatever comes audio/mpeg.
        assert is_mp3(data)
        assert answer["content-encoding"] is None

    def test_errors_are_text_that_a_person_can_read(self, server: Server) -> None:
        body = {"input": SENTENCE, "response_format": "mp3", "voice": "nobody", "speed": 1, "model": "tts-1"}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer ", **NODE_FETCH}
        status, _, data = send(server, "/v1/audio/speech", headers, body)
        assert status == 404
        assert "Available voices: [" in data.decode()


class TestSillyTavernTTSWebUI:
    """SillyTavern: public/scripts/extensions/tts/tts-webui.js, in the browser, without a key."""

    def body(self, *, stream: bool, **params: object) -> dict[str, Any]:
        return {
            "model": "chatterbox",
            "voice": "skylark",
            "input": SENTENCE,
            "response_format": "wav",
            "speed": 1,
            "stream": stream,
            "params": {**TTS_WEBUI_PARAMS, **params},
        }

    def test_voices_are_listed_by_value_and_label(self, server: Server) -> None:
        endpoint = f"{server.url}/v1/audio/speech"
        answer = SILLY_TAVERN.fetch(endpoint.replace("/speech", "/voices/chatterbox"))
        voices = [{"name": entry["label"], "voice_id": entry["value"]} for entry in answer.json()["voices"]]
        assert {"name": "skylark", "voice_id": "skylark"} in voices
        assert {"name": "alloy", "voice_id": "alloy"} in voices

    def test_a_page_may_speak_and_its_params_count(self, server: Server) -> None:
        headers = {"Content-Type": "application/json", "Cache-Control": "undefined"}
        content = json.dumps(self.body(stream=False, seed=77)).encode()
        answer = SILLY_TAVERN.fetch(f"{server.url}/v1/audio/speech", "POST", headers, content)
        assert answer.status_code == 200
        assert answer.headers["x-seed"] == "77"
        assert answer.headers["x-unused-parameters"] == "temperature"
        assert sound.seconds(answer.content, "wav") > 1

    def test_the_stream_feeds_an_audio_worklet(self, server: Server) -> None:
        body = self.body(stream=True, seed=77)
        headers = {"Cache-Control": "no-cache", "Origin": "http://localhost:8000"}
        with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, headers=headers, timeout=60) as answer:
            assert answer.headers["access-control-allow-origin"] == "http://localhost:8000"
            pieces = answer.iter_raw()
            first = next(pieces)
            channels, rate, bits = (
                struct.unpack_from(kind, first, at)[0] for kind, at in (("<H", 22), ("<I", 24), ("<H", 34))
            )
            pcm = first[44:] + b"".join(pieces)
        assert (channels, rate, bits) == (1, 24_000, 16)
        whole, _ = sound.decode(server.speak(seed=77).content, "wav")
        assert np.array_equal(np.frombuffer(pcm, "<i2") / np.float32(32768), whole)

    def test_wrong_params_are_named(self, server: Server) -> None:
        answer = server.post("/v1/audio/speech", self.body(stream=False, seed="77"))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "params.seed"
        assert server.post("/v1/audio/speech", self.body(stream=False) | {"seed": 5}).headers["x-seed"] == "5"


class TestOpenWebUI:
    """PyPI open-webui 0.12: open_webui/routers/audio/__init__.py."""

    def test_without_a_format_the_answer_is_mp3_and_says_so(self, server: Server) -> None:
        status, answer, data = send(
            server, "/v1/audio/speech", OPEN_WEBUI, {"input": SENTENCE, "voice": "alloy", "model": "tts-1"}
        )
        assert status == 200
        # Any other type is guessed at and encoded anew.
        assert answer["content-type"] == "audio/mpeg"
        assert is_mp3(data)

    def test_pcm_is_decoded_by_the_parameters_of_its_type(self, server: Server) -> None:
        extra = {"response_format": "pcm", "seed": 3, "instructions": "speak slowly", "chunk_size": 5}
        body = {"input": SENTENCE, "voice": "alloy", "model": "tts-1", **extra}
        status, answer, data = send(server, "/v1/audio/speech", OPEN_WEBUI, body)
        assert status == 200
        assert answer.get_content_type() == "audio/pcm"
        rate, channels = int(str(answer.get_param("rate"))), int(str(answer.get_param("channels")))
        assert (rate, channels) == (24_000, 1)
        assert 1 < len(data) / 2 / rate < 6

    def test_lists(self, server: Server) -> None:
        # Without `dia`, which answers wav, and without noise.
        assert server.get("/v1/audio/models").json() == {"models": [{"id": "hibari", "name": "hibari"}]}
        assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [
            "dia",
            "hibari",
            "index-tts2",
            "noise",
            "voxcpm",
        ]
        voices = {voice["id"]: voice["name"] for voice in server.get("/v1/audio/voices").json()["voices"]}
        assert voices["skylark"] == "skylark"
        assert voices["alloy"] == "alloy"

    def test_the_message_of_an_error_is_found(self, server: Server) -> None:
        _, _, data = send(server, "/v1/audio/speech", OPEN_WEBUI, {"input": "", "voice": "alloy", "model": "tts-1"})
        assert "nothing" in json.loads(data)["error"]["message"]


class TestLibreChat:
    """api/server/services/Files/Audio/TTSService.js: long texts are cut, and the answers' bytes joined."""

    def test_joined_answers_are_one_mp3(self, server: Server) -> None:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-none", "User-Agent": "axios/1.8.2"}
        text = (SENTENCE + " ") * 92
        assert len(text) > 4096
        parts = []
        for chunk in (text[start : start + 1000] for start in range(0, len(text), 1000)):
            body = {"input": chunk, "model": "tts-1", "voice": "alloy"}
            status, answer, data = send(server, "/v1/audio/speech", headers, body)
            assert (status, answer["content-type"]) == (200, "audio/mpeg")
            parts.append(data)
        together = sound.seconds(b"".join(parts), "mp3")
        assert together == pytest.approx(sum(sound.seconds(part, "mp3") for part in parts), abs=0.05)

    def test_its_localai_provider_names_the_voice_as_the_model(self, server: Server) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "axios/1.8.2"}
        body = {"input": SENTENCE, "model": "skylark", "backend": "vall-e-x"}
        status, answer, data = send(server, "/v1/audio/speech", headers, body)
        assert (status, answer["x-model"]) == (200, "hibari")
        assert is_mp3(data)
        status, _, data = send(server, "/v1/audio/speech", headers, body | {"model": "no-voice"})
        assert (status, json.loads(data)["error"]["param"]) == (400, "voice")


class TestWyomingOpenAI:
    """Home Assistant by roryeckel/wyoming_openai: compatibility.py probes, handler.py reads the stream."""

    def test_it_takes_the_server_for_openais(self, server: Server) -> None:
        assert not server.get("/v1/readyz").is_success
        health = server.get("/health")
        assert health.text != "OK"
        assert not server.get("/v1/test").is_success

    def test_the_legacy_list_names_voices_that_speak(self, server: Server) -> None:
        names = server.get("/v1/audio/voices?legacy=true").json()["voices"]
        assert {"skylark", "alloy"} <= set(names)
        for name in ("skylark", "alloy"):
            assert server.speak("Hi there.", voice=name).status_code == 200

    @pytest.mark.parametrize("extra", [{}, {"instructions": "calm and slow", "stream": True}])
    def test_the_header_of_a_wav_is_in_the_first_piece(self, server: Server, extra: dict[str, object]) -> None:
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
            client.audio.speech.with_streaming_response.create(
                model="tts-1", voice="alloy", input=SENTENCE, response_format="wav", speed=1.0, extra_body=extra
            ) as answer,
        ):
            pieces: Iterator[bytes] = answer.iter_bytes(chunk_size=2048)
            with wave.open(io.BytesIO(next(pieces))) as file:
                assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
            assert sum(map(len, pieces)) > 24_000
