"""The Dia contract's voices and audio prompts, row by row; docs/contracts/dia.md names each of these tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sound
from conftest import SENTENCE, Server, needs_whisper
from contract import PROMPT, VOICE, configured, generate, send, upload
from prompts import recording
from recordings import RATE, encoded, voice_like, wav

FIELDS = {"style", "primary_speaker", "audio_prompt", "audio_prompt_transcript", "voice_seed"}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def mine(server: Server) -> Iterator[Server]:
    """The shared server with an audio prompt `my_voice`; it goes afterwards, with the voice that imitates it."""
    assert upload(server, "my_voice", recording("rms").file).status_code == 200
    yield server
    send(server, "DELETE", "/voice_mappings/my_custom_voice")
    send(server, "DELETE", "/audio_prompts/my_voice?force=true")


def metadata(server: Server, prompt_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/audio_prompts/metadata/{prompt_id}").json()
    return found


def test_list_voices_example(seraphina: Server) -> None:
    answer = seraphina.get("/voices")
    assert answer.status_code == 200
    entry = next(voice for voice in answer.json()["voices"] if voice["id"] == VOICE)
    assert (
        entry.items()
        >= {
            "id": VOICE,
            "name": VOICE,
            "style": "conversational",
            "primary_speaker": "S1",
            "has_audio_prompt": True,
            "preview_url": f"/preview/{VOICE}",
        }.items()
    )
    assert seraphina.get(entry["preview_url"]).headers["content-type"] == "audio/wav"


def test_get_voice_mappings(seraphina: Server) -> None:
    mappings = seraphina.get("/voice_mappings").json()
    assert mappings[VOICE].keys() == FIELDS
    assert mappings[VOICE]["audio_prompt"] == PROMPT
    assert VOICE in [mapping["voice_id"] for mapping in seraphina.get("/v1/voice_mappings").json()]


def test_create_voice_mapping_example(mine: Server) -> None:
    config = {
        "style": "neutral",
        "primary_speaker": "S1",
        "audio_prompt": "my_voice",
        "audio_prompt_transcript": "Transcript of the audio prompt",
    }
    made = mine.post("/voice_mappings", {"voice_id": "my_custom_voice", **config})
    assert (made.status_code, made.json()["message"]) == (200, "Voice 'my_custom_voice' created successfully")
    assert made.json()["voice_config"] == config | {"voice_seed": None}
    spoken = generate(mine, voice_id="my_custom_voice")
    assert spoken.status_code == 200, spoken.text


def test_update_voice_mapping(mine: Server) -> None:
    mine.post("/voice_mappings", {"voice_id": "my_custom_voice", "audio_prompt": "my_voice"}).raise_for_status()
    changed = send(mine, "PUT", "/voice_mappings/my_custom_voice", {"style": "calm", "voice_seed": 7})
    assert (changed.status_code, changed.json()["message"]) == (200, "Voice 'my_custom_voice' updated successfully")
    assert (
        mine.get("/voice_mappings").json()["my_custom_voice"].items()
        >= {
            "style": "calm",
            "audio_prompt": "my_voice",
            "voice_seed": 7,
        }.items()
    )
    assert send(mine, "PUT", "/voice_mappings/nobody", {"style": "calm"}).status_code == 404


def test_delete_voice_mapping(mine: Server) -> None:
    mine.post("/voice_mappings", {"voice_id": "my_custom_voice"}).raise_for_status()
    gone = send(mine, "DELETE", "/voice_mappings/my_custom_voice")
    assert (gone.status_code, gone.json()) == (200, {"message": "Voice 'my_custom_voice' deleted successfully"})
    assert generate(mine, voice_id="my_custom_voice").status_code == 404
    assert send(mine, "DELETE", "/voice_mappings/my_custom_voice").status_code == 404


@needs_curl
def test_preview_with_curl(seraphina: Server) -> None:
    command = ["curl", f"{seraphina.url}/preview/{VOICE}"]
    preview = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert 1 < sound.seconds(preview, "wav") < 10
    assert seraphina.get(f"/preview/{VOICE}").content == preview


def test_preview_of_no_voice(server: Server) -> None:
    assert server.get("/preview/nobody").status_code == 404


def test_upload_prompt_id(mine: Server) -> None:
    assert "my_voice" in mine.get("/audio_prompts").json()
    taken = upload(mine, "my_voice", wav(voice_like(5)))
    assert (taken.status_code, "overwrite" in taken.json()["detail"]) == (409, True)
    for none in ("", "../up", "metadata"):
        refused = upload(mine, none, wav(voice_like(4)))
        assert (refused.status_code, "prompt_id" in refused.json()["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("container", "codec", "name"),
    [
        ("wav", "pcm_s16le", "voice.wav"),
        ("mp3", "libmp3lame", "voice.mp3"),
        ("flac", "flac", "voice.flac"),
        ("ogg", "libopus", "voice.ogg"),
        ("ipod", "aac", "voice.m4a"),
        ("adts", "aac", "voice.aac"),
        ("webm", "libopus", "voice.webm"),
    ],
)
def test_upload_audio_file(server: Server, container: str, codec: str, name: str) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    answer = upload(server, "any_format", encoded(container, codec, voice_like(4), rate=rate), name)
    assert (answer.status_code, answer.json()["sample_rate"]) == (200, 44_100), answer.text
    send(server, "DELETE", "/audio_prompts/any_format").raise_for_status()


def test_upload_of_what_is_no_sound(server: Server) -> None:
    refused = upload(server, "none", b"no sound at all")
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("Failed to process audio file")


@needs_curl
def test_upload_with_curl(server: Server, tmp_path: Path) -> None:
    (tmp_path / "voice_sample.wav").write_bytes(wav(voice_like(4)))
    command = ["curl", "-X", "POST", f"{server.url}/audio_prompts/upload"]
    command += ["-F", "prompt_id=by_curl", "-F", "audio_file=@voice_sample.wav"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert "by_curl" in server.get("/audio_prompts").json()
    send(server, "DELETE", "/audio_prompts/by_curl").raise_for_status()


def test_upload_answer(server: Server) -> None:
    answer = upload(server, "answered", wav(voice_like(8.55)[::2], RATE // 2))
    assert answer.json() == {
        "message": "Audio prompt 'answered' uploaded successfully",
        "duration": pytest.approx(8.55, abs=0.3),
        "sample_rate": 44_100,
        "original_sample_rate": 22_050,
        "channels": "mono",
    }
    assert metadata(server, "answered")["duration"] == answer.json()["duration"]
    send(server, "DELETE", "/audio_prompts/answered").raise_for_status()


def test_prompts_of_3_to_30_seconds(server: Server) -> None:
    for seconds, is_warned in ((2.5, True), (3.5, False), (29.5, False), (31, True)):
        answer = upload(server, "length", wav(voice_like(seconds)))
        assert (answer.status_code, "warning" in answer.json()) == (200, is_warned)
        send(server, "DELETE", "/audio_prompts/length").raise_for_status()
    for seconds, words in ((0.5, "at least 1 s"), (61, "longer than 60 s")):
        refused = upload(server, "length", wav(voice_like(seconds)))
        assert (refused.status_code, words in refused.json()["detail"]) == (400, True)


def test_prompts_under_25_megabytes(server: Server) -> None:
    large = wav(np.zeros(1, np.float32)) + bytes(25 * 1024 * 1024)
    assert upload(server, "large", large).status_code == 413


def test_discover_example(server: Server) -> None:
    folder = server.home / "audio_prompts"
    folder.mkdir(exist_ok=True)
    (folder / "by_hand.wav").write_bytes(wav(voice_like(4)))
    (folder / "by_hand.txt").write_text("Put there by hand.", encoding="utf-8")
    answer = server.post("/audio_prompts/discover", {"force_retranscribe": False})
    assert answer.status_code == 200
    assert answer.json()["total_prompts"] == len(server.get("/audio_prompts").json())
    (found,) = answer.json()["discovered"]
    assert (found["prompt_id"], found["transcript"]) == ("by_hand", "Put there by hand.")
    send(server, "DELETE", "/audio_prompts/by_hand").raise_for_status()


@needs_whisper
def test_transcribe(server: Server) -> None:
    upload(server, "spoken", server.speak(SENTENCE, seed=2).content).raise_for_status()
    answer = server.post("/audio_prompts/spoken/transcribe")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"prompt_id", "transcript", "saved_to"}
    assert sound.mistakes(SENTENCE, answer.json()["transcript"]) < 0.2
    known = metadata(server, "spoken")
    assert (known["transcript"], known["transcript_source"]) == (answer.json()["transcript"], "whisper")
    send(server, "DELETE", "/audio_prompts/spoken").raise_for_status()


@needs_whisper
def test_uploads_are_transcribed_by_themselves(server: Server) -> None:
    """The answer has the transcript if it comes within two seconds, and the metadata have it later."""
    spoken = server.speak(SENTENCE, seed=3).content
    with configured(server, auto_transcribe=True):
        server.post("/whisper/load").raise_for_status()
        answer = upload(server, "heard", spoken).json()
    transcript = answer.get("transcript") or server.post("/audio_prompts/heard/transcribe").json()["transcript"]
    assert sound.mistakes(SENTENCE, transcript) < 0.2
    send(server, "DELETE", "/audio_prompts/heard").raise_for_status()


def test_update_transcript_example(mine: Server) -> None:
    mine.post("/voice_mappings", {"voice_id": "my_custom_voice", "audio_prompt": "my_voice"}).raise_for_status()
    said = "This is the spoken content of the audio prompt"
    answer = send(mine, "PUT", "/audio_prompts/my_voice/transcript", {"transcript": said, "prompt_id": "my_voice"})
    assert (answer.status_code, answer.json()["updated_voices"]) == (200, ["my_custom_voice"])
    assert metadata(mine, "my_voice")["transcript"] == said
    assert mine.get("/voice_mappings").json()["my_custom_voice"]["audio_prompt_transcript"] == said


def test_voices_imitate_their_recording(seraphina: Server) -> None:
    assert metadata(seraphina, PROMPT)["transcript"] == recording("slt").transcript
    assert generate(seraphina, voice_id=VOICE, seed=1).content != generate(seraphina, seed=1).content
