"""SillyTavern's provider for Dia, in the browser, as the two versions that people run: extensions/tts/dia.js.

Each request is the version's own to the byte, and each answer is read the way it reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import httpx
import pytest

import sound
from browser import Page
from conftest import SENTENCE, Server, needs_whisper, wait_until
from contract import configured
from prompts import recording
from recordings import encoded, voice_like

SAMPLE = encoded("mp3", "libmp3lame", voice_like(6))
BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
PRESETS: dict[str, dict[str, float]] = {
    "quality": {"speed": 1, "temperature": 0.8, "cfg_scale": 4, "top_p": 0.8, "max_tokens": 2000},
    "natural": {"speed": 1, "temperature": 1.4, "cfg_scale": 2.5, "top_p": 0.95, "max_tokens": 2000},
    "fast": {"speed": 1.2, "temperature": 1, "cfg_scale": 2, "top_p": 0.9, "max_tokens": 1000},
    "default": {"speed": 1, "temperature": 1.2, "cfg_scale": 3, "top_p": 0.95, "max_tokens": 2000},
    "sliders, left": {"speed": 0.25, "temperature": 0.1, "cfg_scale": 1, "top_p": 0.1, "max_tokens": 100},
    "sliders, right": {"speed": 4, "temperature": 2, "cfg_scale": 10, "top_p": 1, "max_tokens": 10000},
}


def form(prompt_id: str, filename: str, content_type: str, data: bytes) -> bytes:
    """What Chromium makes of `new FormData()` with these two fields."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt_id"\r\n\r\n{prompt_id}\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="audio_file"; filename="{filename}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


class Provider:
    """What both versions share: a page of SillyTavern's, and the address that its user typed."""

    prefix = ""
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, server: Server, origin: str = "http://localhost:8000") -> None:
        self._page = Page(origin)
        self._endpoint = server.url + self.prefix

    def fetch(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        return self._page.fetch(self._endpoint + path, method, self.headers | headers)

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """As `JSON.stringify` writes it."""
        content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        fields = {"Content-Type": "application/json", **self.headers, **headers}
        return self._page.fetch(self._endpoint + path, "POST", fields, content)

    def upload(self, prompt_id: str, filename: str, content_type: str, data: bytes) -> httpx.Response:
        fields = {**self.headers, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        content = form(prompt_id, filename, content_type, data)
        return self._page.fetch(f"{self._endpoint}/audio_prompts/upload", "POST", fields, content)

    def json(self, path: str, method: str = "GET") -> Any:
        """Its `fetchEndpoint`."""
        answer = self.fetch(path, method)
        assert answer.is_success, answer.text
        return answer.json()


class Older(Provider):
    """Everything but /health under /v1, with a key."""

    prefix = "/v1"
    headers: ClassVar[dict[str, str]] = {"Authorization": "Bearer sk-anything"}

    def speak(self, text: str, voice: str) -> httpx.Response:
        body = {"model": "dia", "input": text, "voice": voice, "response_format": "wav", "speed": 1}
        return self.post("/audio/speech", body)


class Newer(Provider):
    """Everything at the root, without a key."""

    def request(self, text: str, voice: str, role: str = "assistant", preset: str = "default") -> dict[str, Any]:
        body = {"text": text, "voice_id": voice, "role": role, "response_format": "wav", **PRESETS[preset]}
        # Before every generation.
        mapping = self.json("/voice_mappings").get(voice)
        if mapping and mapping["voice_seed"]:
            body["voice_seed"] = mapping["voice_seed"]
        return body

    def speak(self, text: str, voice: str, role: str = "assistant", preset: str = "default") -> httpx.Response:
        accepted = "audio/wav, audio/mpeg, audio/*, */*"
        return self.post("/generate", self.request(text, voice, role, preset), Accept=accepted)

    def speak_long(self, text: str, voice: str) -> httpx.Response:
        job_id = self.post("/generate?async_mode=true", self.request(text, voice)).json()["job_id"]

        def is_over() -> bool:
            status = self.json(f"/jobs/{job_id}")["status"]
            assert status not in ("failed", "cancelled")
            return bool(status == "completed")

        wait_until(is_over)
        return self.fetch(f"/jobs/{job_id}/result")


@pytest.fixture
def older(server: Server) -> Older:
    return Older(server)


@pytest.fixture
def newer(server: Server) -> Newer:
    return Newer(server)


@pytest.fixture
def sampled(newer: Newer) -> Iterator[dict[str, Any]]:
    """What an upload of `ada_voice` answers; the newer version's trash can removes it afterwards."""
    yield newer.upload("ada_voice", "Ada's voice.mp3", "audio/mpeg", SAMPLE).json()
    newer.fetch("/voice_mappings/ada_voice", "DELETE")
    newer.fetch("/audio_prompts/ada_voice", "DELETE")


class TestOlder:
    """As of commit 08469067."""

    def test_health_is_any_success(self, server: Server) -> None:
        assert Page("http://localhost:8000").fetch(f"{server.url}/health").is_success

    def test_mappings_are_looped_over(self, older: Older) -> None:
        mappings = older.json("/voice_mappings")
        assert isinstance(mappings, list)
        assert "skylark" in [mapping["voice_id"] for mapping in mappings]

    @pytest.mark.parametrize("voice", ["alloy", "echo", "fable", "nova", "onyx", "shimmer", "skylark"])
    def test_its_voices_speak(self, older: Older, voice: str) -> None:
        answer = older.speak("[S1] Hello there. ... Good morning.", voice)
        assert answer.headers["content-type"].startswith("audio/")
        assert sound.seconds(answer.content, "wav") > 1

    def test_refusals_are_shown_as_they_come(self, older: Older) -> None:
        refused = older.speak("[S2] Hello there.", "nobody")
        assert refused.status_code == 404
        assert refused.json()["detail"].startswith("Voice 'nobody' not found. Available voices: ['")

    @pytest.mark.parametrize(
        ("filename", "content_type", "kind"),
        [
            ("a.wav", "audio/wav", ("wav", "pcm_s16le")),
            ("a.mp3", "audio/mpeg", ("mp3", "libmp3lame")),
            ("a.ogg", "audio/ogg", ("ogg", "libopus")),
            ("a.m4a", "audio/x-m4a", ("ipod", "aac")),
            ("a.flac", "audio/flac", ("flac", "flac")),
        ],
    )
    def test_a_voice_from_its_making_to_its_end(
        self, older: Older, filename: str, content_type: str, kind: tuple[str, str]
    ) -> None:
        sample = encoded(*kind, voice_like(4), rate=48_000)
        assert older.upload("ada_voice", filename, content_type, sample).is_success
        mapping = {"voice_id": "ada_voice", "style": "natural", "primary_speaker": "S1", "audio_prompt": "ada_voice"}
        assert older.post("/voice_mappings", mapping).json()["voice_config"]["audio_prompt"] == "ada_voice"
        assert "ada_voice" in [voice["voice_id"] for voice in older.json("/voice_mappings")]
        assert older.fetch("/voice_mappings/ada_voice", "DELETE").is_success
        assert older.fetch("/audio_prompts/ada_voice", "DELETE").is_success

    def test_a_cloned_voice_speaks(self, older: Older) -> None:
        assert older.upload("slt", "slt.flac", "audio/flac", recording("slt").file).is_success
        mapping = {"voice_id": "slt", "style": "natural", "primary_speaker": "S1", "audio_prompt": "slt"}
        assert older.post("/voice_mappings", mapping).is_success
        answer = older.speak("[S2] Hello there.", "slt")
        assert sound.seconds(answer.content, "wav") > 0.5
        assert older.fetch("/voice_mappings/slt", "DELETE").is_success
        assert older.fetch("/audio_prompts/slt", "DELETE").is_success

    def test_a_broken_file_is_told_by_words_that_it_knows(self, older: Older) -> None:
        refused = older.upload("none", "none.wav", "audio/wav", b"no sound" * 100)
        assert not refused.is_success
        assert "Failed to process audio file" in refused.json()["detail"]
        assert "being used by another process" not in refused.json()["detail"]


class TestNewer:
    """As of 85 kB: without /v1, without a key, `mode: "cors"`, `credentials: "omit"`."""

    def test_health_and_voices(self, newer: Newer) -> None:
        health = newer.json("/health")
        assert (health["status"], health["model_loaded"]) == ("healthy", True)
        voices = {voice["voice_id"]: voice["name"] for voice in newer.json("/voices")["voices"]}
        assert voices["skylark"] == "skylark"

    @pytest.mark.parametrize("preset", PRESETS)
    def test_speech_at_every_setting(self, newer: Newer, preset: str) -> None:
        answer = newer.speak("Hello there.", "skylark", "user", preset)
        assert answer.headers["content-type"] == "audio/wav"
        assert sound.seconds(answer.content, "wav") > 0.1

    @pytest.mark.parametrize("role", ["user", "assistant", "system"])
    def test_every_role_speaks(self, newer: Newer, role: str) -> None:
        assert newer.speak("Hello there.", "skylark", role).is_success

    def test_a_voice_that_is_gone_is_a_404(self, newer: Newer) -> None:
        refused = newer.speak("Hello there.", "nobody")
        assert (refused.status_code, "not found" in refused.text) == (404, True)

    def test_long_texts_are_fetched_when_they_are_done(self, newer: Newer) -> None:
        text = f"{SENTENCE} " * 24
        assert len(text) > 1_000
        answer = newer.speak_long(text, "skylark")
        assert answer.headers["content-type"] == "audio/wav"
        # The preset's `max_tokens`: 2,000 frames of an eightieth of a second; the text would go on.
        assert sound.seconds(answer.content, "wav") == 25

    def test_a_job_that_is_gone_is_known_by_its_404(self, newer: Newer) -> None:
        assert newer.fetch("/jobs/00000000-0000-4000-8000-000000000000").status_code == 404

    def test_a_cancelled_job_says_so(self, newer: Newer) -> None:
        body = newer.request(f"{SENTENCE} " * 80, "skylark")
        job_id = newer.post("/generate?async_mode=true", body).json()["job_id"]
        assert newer.fetch(f"/jobs/{job_id}", "DELETE").is_success
        assert newer.json(f"/jobs/{job_id}")["status"] == "cancelled"

    def test_what_it_gives_up_waiting_for_is_not_made(self, server: Server, newer: Newer) -> None:
        def aborted() -> bool:
            return f'dia_streams_total{{outcome="aborted"}} {before + 1}' in server.get("/metrics").text

        counted = re.search(r'^dia_streams_total{outcome="aborted"} (\S+)$', server.get("/metrics").text, re.MULTILINE)
        before = float(counted[1]) if counted else 0.0
        body = newer.request(SENTENCE * 20, "slow") | {"model": "noise"}
        with server.waiting_client("/generate", body):
            wait_until(lambda: server.busy() == 1)
        wait_until(aborted)
        wait_until(lambda: server.busy() == 0)

    def test_a_voice_of_a_sample(self, newer: Newer, sampled: dict[str, Any]) -> None:
        assert sampled["message"] == "Audio prompt 'ada_voice' uploaded successfully"
        metadata = newer.json("/audio_prompts/metadata/ada_voice")
        assert metadata["transcript"] is None
        mapping = {
            "voice_id": "ada_voice",
            "style": "conversational",
            "primary_speaker": "S1",
            "audio_prompt": "ada_voice",
            "audio_prompt_transcript": sampled.get("transcript"),
        }
        assert newer.post("/voice_mappings", mapping).is_success
        assert newer.json("/voice_mappings")["ada_voice"]["audio_prompt"] == "ada_voice"
        assert "ada_voice" in [voice["voice_id"] for voice in newer.json("/voices")["voices"]]
        # Its trash can.
        assert newer.fetch("/voice_mappings/ada_voice", "DELETE").is_success
        assert newer.fetch("/audio_prompts/ada_voice", "DELETE").is_success
        assert "ada_voice" not in newer.json("/audio_prompts")

    def test_a_lost_voice_is_repaired_from_its_sample(self, newer: Newer, sampled: dict[str, Any]) -> None:
        del sampled
        known = newer.json("/audio_prompts/metadata/ada_voice")
        mapping = {
            "voice_id": "ada_voice",
            "style": "conversational",
            "primary_speaker": "S1",
            "audio_prompt": "ada_voice",
            "audio_prompt_transcript": known["transcript"] or None,
        }
        assert newer.post("/voice_mappings", mapping).json()["voice_config"]["style"] == "conversational"
        # It tries again with every press of the button, and only logs the refusal.
        assert newer.post("/voice_mappings", mapping).status_code == 409
        assert newer.fetch("/audio_prompts/metadata/nobody").status_code == 404

    def test_a_voice_of_a_seed(self, newer: Newer) -> None:
        for seed in (1, 999_999):
            mapping = {
                "voice_id": "seeded",
                "style": "seed_based",
                "primary_speaker": "S1",
                "voice_seed": seed,
                "audio_prompt": None,
                "audio_prompt_transcript": None,
            }
            assert newer.post("/voice_mappings", mapping).json()["voice_config"]["voice_seed"] == seed
            first, second = (newer.speak("Hello there.", "seeded") for _ in range(2))
            assert first.headers["x-seed"] == str(seed)
            assert first.content == second.content
            assert newer.fetch("/voice_mappings/seeded", "DELETE").is_success
            # There is no sample; it only warns.
            assert newer.fetch("/audio_prompts/seeded", "DELETE").status_code == 404

    def test_pages_from_elsewhere_are_let_in_by_a_setting(self, server: Server) -> None:
        with configured(server, cors_origins=["https://tavern.example"]):
            assert Newer(server, "https://tavern.example").json("/health")["status"] == "healthy"


class TestAdminPanel:
    """The newer version's buttons; each shows a failure if any of its requests fails."""

    def test_server_status(self, newer: Newer) -> None:
        health, gpu, config = (newer.json(path) for path in ("/health", "/gpu/status", "/config"))
        assert health["status"] == "healthy"
        assert isinstance(gpu["gpu_mode"], str)
        assert isinstance(gpu["gpu_count"], int)
        assert isinstance(gpu["use_multi_gpu"], bool)
        assert (config["debug_mode"], config["save_outputs"]) == (False, False)

    def test_queue_status(self, newer: Newer) -> None:
        stats = newer.json("/queue/stats")
        for name in ("pending", "processing", "completed", "failed"):
            assert isinstance(stats[f"{name}_jobs"], int)
        assert stats["active_workers"] <= stats["total_workers"]
        for pressure in stats["memory_pressure"].values():
            assert pressure["status"] in ("normal", "high")
            assert 0 <= pressure["pressure"] <= 1

    def test_view_logs(self, newer: Newer) -> None:
        newer.speak("Hello there.", "heron")
        logs = newer.json("/logs?limit=10")["logs"]
        assert 0 < len(logs) <= 10
        assert logs[0]["voice"] == "heron"
        assert isinstance(logs[0]["text"], str)
        assert logs[0]["timestamp"].endswith("Z")
        assert logs[0]["generation_time"] >= 0

    def test_discover_audio(self, newer: Newer) -> None:
        found = newer.post("/audio_prompts/discover", {"force_retranscribe": False}).json()
        assert isinstance(found["total_prompts"], int)
        assert found["discovered"] == []

    def test_cleanup_server(self, newer: Newer) -> None:
        assert newer.json("/cleanup", "POST") == {"message": "Cleanup completed"}

    def test_view_audio_prompts(self, newer: Newer, sampled: dict[str, Any]) -> None:
        entry = newer.json("/audio_prompts/metadata")["ada_voice"]
        assert (entry["transcript"], entry["transcript_source"]) == (None, None)
        assert entry["duration"] == sampled["duration"]

    def test_whisper_status(self, newer: Newer) -> None:
        status = newer.json("/whisper/status")
        assert status.keys() >= {"available", "model_loaded", "model_size", "auto_transcribe"}

    @needs_whisper
    def test_load_whisper_and_transcribe_all_again(self, server: Server, newer: Newer) -> None:
        newer.json("/whisper/load", "POST")
        assert newer.json("/whisper/status")["model_loaded"] is True
        spoken = server.speak(SENTENCE, seed=4).content
        assert newer.upload("said", "said.wav", "audio/wav", spoken).is_success
        heard = newer.json("/audio_prompts/said/transcribe", "POST")["transcript"]
        assert sound.mistakes(SENTENCE, heard) < 0.2
        found = newer.post("/audio_prompts/discover", {"force_retranscribe": True}).json()
        assert "said" in [prompt["prompt_id"] for prompt in found["discovered"]]
        assert newer.fetch("/audio_prompts/said", "DELETE").is_success
