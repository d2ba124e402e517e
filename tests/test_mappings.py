"""Voices made and changed by clients, and the files that come of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import asgi
from litestar.testing import create_test_client
from litestar.types import Receive, Scope, Send

from conftest import NOISE, Server, make_home, running_server
from dia_server.api.errors import on_storage
from dia_server.audio.encode import wav_header
from dia_server.voices.store import MAX_FILE_BYTES
from dia_server.voices.text import Voice, parse_voice, write_voice
from recordings import voice_like, wav

BLANK = {
    "style": "neutral",
    "primary_speaker": "S1",
    "audio_prompt": None,
    "audio_prompt_transcript": None,
    "voice_seed": None,
}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("noisy"), NOISE)) as server:
        server.wait_until_ready()
        files = {"audio_file": ("me.wav", wav(voice_like(4)))}
        httpx.post(f"{server.url}/audio_prompts/upload", data={"prompt_id": "me"}, files=files).raise_for_status()
        yield server


def put(server: Server, voice_id: str, body: Any) -> httpx.Response:
    return httpx.put(f"{server.url}/voice_mappings/{voice_id}", json=body, timeout=10)


def remove(server: Server, voice_id: str) -> httpx.Response:
    return httpx.delete(f"{server.url}/v1/voice_mappings/{voice_id}", timeout=10)


def test_a_voice_from_its_making_to_its_end(noisy: Server) -> None:
    made = noisy.post("/voice_mappings", {"voice_id": "ada", "audio_prompt": "me", "voice_seed": 7})
    assert made.status_code == 200
    config = BLANK | {"audio_prompt": "me", "voice_seed": 7}
    assert made.json() == {"message": "Voice 'ada' created successfully", "voice_config": config}
    assert noisy.get("/voice_mappings").json()["ada"] == config
    assert {"voice_id": "ada", **config} in noisy.get("/v1/voice_mappings").json()
    entry = next(voice for voice in noisy.get("/voices").json()["voices"] if voice["id"] == "ada")
    assert entry == {
        "id": "ada",
        "voice_id": "ada",
        "name": "ada",
        "style": "neutral",
        "primary_speaker": "S1",
        "has_audio_prompt": True,
        "preview_url": "/preview/ada",
    }
    assert noisy.speak(voice="ada").headers["x-seed"] == "7"
    changed = put(noisy, "ada", {"voice_id": "ada", "style": "natural", "voice_seed": None})
    config |= {"style": "natural", "voice_seed": None}
    assert changed.json() == {"message": "Voice 'ada' updated successfully", "voice_config": config}
    assert (noisy.home / "voices" / "ada.yaml").read_text() == (
        "style: natural\nprimary_speaker: S1\naudio_prompt: me\nvoice_seed:\n"
    )
    assert remove(noisy, "ada").json() == {"message": "Voice 'ada' deleted successfully"}
    assert not (noisy.home / "voices" / "ada.yaml").exists()
    assert remove(noisy, "ada").status_code == 404


def test_a_hand_edited_file_keeps_its_comments_and_what_only_it_has(noisy: Server) -> None:
    file = noisy.home / "voices" / "hand.yaml"
    file.write_text(
        "# mine\nstyle: calm  # as at home\nspeakers: {S2: static}\nmodels:\n  noise: {event_samples: 100}\n"
        "  other: {knob: [1, 2]}\n"
    )
    assert put(noisy, "hand", {"style": "no", "audio_prompt_transcript": "Zoë: 12:30"}).status_code == 200
    text = file.read_text(encoding="utf-8")
    assert parse_voice(text) == Voice(
        style="no",
        audio_prompt_transcript="Zoë: 12:30",
        speakers={"S2": "static"},
        models={"noise": {"event_samples": 100}, "other": {"knob": [1, 2]}},
    )
    assert put(noisy, "hand", {"style": "sad", "audio_prompt_transcript": None}).status_code == 200
    file.write_text("# mine\nstyle: calm  # as at home\nmodels:\n  other: {knob: [1, 2]}\n")
    assert put(noisy, "hand", {"style": "sad", "audio_prompt": "me"}).status_code == 200
    assert file.read_text() == (
        "# mine\nstyle: sad   # as at home\nmodels:\n  other: {knob: [1, 2]}\naudio_prompt: me\n"
    )
    file.write_text("# all of it\n# style: calm\n")
    file.chmod(0o600)
    assert put(noisy, "hand", {"voice_seed": 7}).status_code == 200
    assert file.read_text().startswith("# all of it\n# style: calm\nstyle: neutral\n")
    assert file.stat().st_mode & 0o777 == 0o600
    remove(noisy, "hand")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "'voice_id' is required"),
        ({"voice_id": "../up"}, 400, "'voice_id'"),
        ({"voice_id": "a\x00b"}, 400, "'voice_id'"),
        ({"voice_id": ""}, 400, "'voice_id'"),
        ({"voice_id": "a" * 65}, 400, "'voice_id'"),
        ({"voice_id": "skylark"}, 409, "there already"),
        ({"voice_id": "x", "audio_prompt": "ghost"}, 400, "Audio prompts: ['me']"),
        ({"voice_id": "x", "primary_speaker": "S3"}, 400, "allowed are S1, S2"),
        ({"voice_id": "x", "voice_seed": 0}, 400, "voice_seed"),
        ({"voice_id": "x", "voice_seed": 1_000_000}, 400, "voice_seed"),
        ({"voice_id": "x", "style": 3}, 400, "style"),
        ({"voice_id": "x", "style": "s" * 20_000}, 400, f"{MAX_FILE_BYTES}"),
        ({"voice_id": "x", "audio_prompt_transcript": "a" * 2_001}, 400, "2000"),
        ({"voice_id": "x", "audio_prompt_transcript": "a\x00"}, 400, "U+0000"),
    ],
)
def test_voices_that_can_not_be_made(noisy: Server, body: Any, status: int, words: str) -> None:
    before = sorted(path.name for path in (noisy.home / "voices").iterdir())
    answer = noisy.post("/voice_mappings", body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert sorted(path.name for path in (noisy.home / "voices").iterdir()) == before


def test_changes_that_can_not_be_made(noisy: Server) -> None:
    assert put(noisy, "ghost", {}).status_code == 404
    assert put(noisy, "skylark", {"voice_id": "owl"}).status_code == 400
    assert put(noisy, "skylark", {"audio_prompt": "ghost"}).json()["detail"].endswith("Audio prompts: ['me']")
    assert httpx.put(f"{noisy.url}/voice_mappings/skylark", content=b"{}").status_code == 415


def test_a_broken_file_is_told_of_once_and_not_overwritten(noisy: Server) -> None:
    file = noisy.home / "voices" / "broken.yaml"
    file.write_text("stile: calm")
    for _ in range(3):
        assert "unknown field `stile`" in noisy.get("/voices").json()["problems"]["broken.yaml"]
    assert noisy.log().count("broken.yaml") == 1
    taken = noisy.post("/voice_mappings", {"voice_id": "broken"})
    assert taken.status_code == 409
    assert "unknown field `stile`" in taken.json()["detail"]
    for refused in (put(noisy, "broken", {}), remove(noisy, "broken")):
        assert (refused.status_code, "unknown field `stile`" in refused.json()["detail"]) == (404, True)
    assert file.read_text() == "stile: calm"
    file.unlink()


def test_openai_makes_and_removes_the_same(noisy: Server) -> None:
    with openai.OpenAI(base_url=f"{noisy.url}/v1", api_key="none", max_retries=0) as client:
        sample = ("sample.wav", wav(voice_like(5)), "audio/wav")
        voice = client.audio.voices.create(name="Ada Lovelace", audio_sample=sample, consent="cons_1")
        assert (voice.id, voice.object, voice.name, voice.type) == (
            "Ada_Lovelace",
            "audio.voice",
            "Ada Lovelace",
            "audio_sample",
        )
        assert voice.created_at > 1_700_000_000
        with pytest.raises(openai.ConflictError):
            client.audio.voices.create(name="Ada Lovelace", audio_sample=sample, consent="cons_1")
    assert noisy.get("/voice_mappings").json()["Ada_Lovelace"] == BLANK | {"audio_prompt": "Ada_Lovelace"}
    assert "cons_1" in (noisy.home / "audio_prompts" / "Ada_Lovelace.json").read_text()
    assert {"id": "Ada_Lovelace", "name": "Ada_Lovelace"} in noisy.get("/v1/audio/voices").json()["voices"]
    gone = httpx.delete(f"{noisy.url}/v1/audio/voices/Ada_Lovelace")
    assert gone.json() == {"id": "Ada_Lovelace", "object": "audio.voice.deleted", "deleted": True}
    assert list(noisy.get("/audio_prompts").json()) == ["me"]
    assert httpx.delete(f"{noisy.url}/v1/audio/voices/Ada_Lovelace").status_code == 404


@pytest.mark.parametrize("missing", ["name", "consent", "audio_sample"])
def test_openai_voices_need_all_fields(noisy: Server, missing: str) -> None:
    form = {"name": "x", "consent": "cons_1", "audio_sample": wav(voice_like(4))}
    parts = [(name, (None, value) if isinstance(value, str) else ("a.wav", value)) for name, value in form.items()]
    answer = httpx.post(f"{noisy.url}/v1/audio/voices", files=[part for part in parts if part[0] != missing])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == missing
    assert "x" not in noisy.get("/audio_prompts").json()


def test_previews_are_kept_until_the_voice_changes(noisy: Server) -> None:
    noisy.post("/voice_mappings", {"voice_id": "seen", "voice_seed": 5}).raise_for_status()
    first = noisy.get("/preview/seen")
    assert (first.status_code, first.headers["content-type"], first.headers["x-seed"]) == (200, "audio/wav", "5")
    assert first.content[:4] == b"RIFF"
    cache = noisy.home / "cache" / "previews"
    (kept,) = cache.glob("seen.*.wav")
    assert kept.read_bytes() == first.content
    other = wav_header(24_000, 4) + b"\0\0\1\0"
    kept.write_bytes(other)
    assert noisy.get("/v1/preview/seen").content == other
    for damaged in (b"", b"x" * 100, first.content[:3_000]):
        kept.write_bytes(damaged)
        assert noisy.get("/preview/seen").content == first.content
    put(noisy, "seen", {"voice_seed": 6}).raise_for_status()
    again = noisy.get("/preview/seen")
    assert again.content[:4] == b"RIFF"
    assert again.content != first.content
    assert len(list(cache.glob("seen.*.wav"))) == 1
    assert noisy.get("/preview/ghost").status_code == 404
    remove(noisy, "seen")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30)


@given(
    style=st.one_of(texts, st.sampled_from(["no", "on", "null", "~", "12:30", "1_000", "0o7", "*a", "{", "# x"])),
    transcript=st.none() | texts,
    seed=st.none() | st.integers(1, 999_999),
    old=st.sampled_from(
        ["", "{}", "# x\n", "style: a # c\n", "{style: a, voice_seed: 3}", "style: a\nstyle: b\n", "- x", "style: [\n"]
    ),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_written_is_what_is_read(style: str, transcript: str | None, seed: int | None, old: str) -> None:
    voice = Voice(style=style, audio_prompt_transcript=transcript, voice_seed=seed)
    assert parse_voice(write_voice(voice, old)) == voice


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (errno.ENOSPC, 507, "disk is full"),
        (errno.EDQUOT, 507, "disk is full"),
        (errno.EROFS, 503, "can't write to its home"),
        (errno.EACCES, 503, "can't write to its home"),
        (errno.EIO, 500, "Internal error"),
    ],
)
def test_a_home_that_takes_nothing_is_told_apart_from_a_bug(number: int, status: int, words: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        raise OSError(number, os.strerror(number), scope["path"])

    routes = [asgi("/v1/x", is_mount=False, copy_scope=False)(app)]
    with create_test_client(routes, exception_handlers={OSError: on_storage}) as client:
        answer = client.get("/v1/x")
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
