"""Audio prompts: the way of a new user, and every answer to the field."""

from __future__ import annotations

import hashlib
import io
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from conftest import NOISE, Server, make_home, needs_whisper, running_server, wait_until
from dia_server.audio.loudness import speech_level
from dia_server.audio.recording import LEVEL_DB, clean
from dia_server.errors import BadInput, Unavailable
from dia_server.pool.pool import Pool
from dia_server.services.mappings import Mappings
from dia_server.services.prompts import Prompts
from dia_server.settings import Settings
from dia_server.voices.prompts import SAMPLE_RATE, Origin, PromptStore, now
from dia_server.voices.store import VoiceStore
from recordings import LYING, RATE, encoded, voice_like, wav
from sound import decode, mistakes, seconds

TEXT = "The quick brown fox jumps over the lazy dog, and nobody in the whole wide house hears it at all."


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("prompts"), NOISE)) as server:
        server.wait_until_ready()
        yield server


def upload(server: Server, prompt_id: str, data: bytes, *, name: str = "me.wav", **fields: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/audio_prompts/upload",
        data={"prompt_id": prompt_id, **fields},
        files={"audio_file": (name, data)},
        timeout=60,
    )


def remove(server: Server, path: str) -> httpx.Response:
    return httpx.delete(server.url + path, timeout=10)


def kept(server: Server) -> list[str]:
    """Everything in the prompts' folder, and what uploads have left in the cache."""
    folder = server.home / "audio_prompts"
    files = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted([*files, *(path.name for path in (server.home / "cache" / "tmp").glob(".*.part"))])


@needs_whisper
def test_the_way_of_a_new_user(server: Server, listening: Server) -> None:
    recording = server.speak(TEXT, seed=3, response_format="mp3", model="hibari").content
    uploaded = uploads_a_recording(listening, recording)
    makes_a_voice_of_it(listening, uploaded["transcript"])
    hears_it(listening)
    known = corrects_the_transcript(listening, recording, uploaded)
    looks_at_it(listening, known, uploaded)
    removes_it(listening)


def uploads_a_recording(server: Server, recording: bytes) -> dict[str, Any]:
    answer = upload(server, "me", recording, name="me.mp3")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    if "transcript" not in body:  # it took Whisper more than two seconds
        wait_until(lambda: server.get("/audio_prompts/metadata/me").json()["transcript"])
        body["transcript"] = server.get("/audio_prompts/metadata/me").json()["transcript"]
    assert body == {
        "message": "Audio prompt 'me' uploaded successfully",
        "duration": body["duration"],
        "sample_rate": 44_100,
        "original_sample_rate": decode(recording, "mp3")[1],
        "channels": "mono",
        "transcript": body["transcript"],
    }
    assert 4 < body["duration"] < 9
    assert mistakes(TEXT, body["transcript"]) < 0.1
    assert server.get("/audio_prompts").json()["me"] == {
        "file_path": "audio_prompts/me.wav",
        "duration": body["duration"],
        "sample_rate": 44_100,
        "exists": True,
    }
    return body


def makes_a_voice_of_it(server: Server, transcript: str) -> None:
    config = {
        "style": "natural",
        "primary_speaker": "S1",
        "audio_prompt": "me",
        "audio_prompt_transcript": transcript,
        "voice_seed": None,
    }
    made = server.post("/voice_mappings", {"voice_id": "myself", **config})
    assert (made.status_code, made.json()) == (
        200,
        {"message": "Voice 'myself' created successfully", "voice_config": config},
    )
    assert server.get("/voice_mappings").json()["myself"] == config


def hears_it(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        first, second = (
            client.audio.speech.create(model="tts-1", voice="myself", input="Hello.", extra_body={"seed": 9}).content
            for _ in range(2)
        )
    assert first == second
    previews = [server.get("/preview/myself").content for _ in range(2)]
    assert previews[0] == previews[1]
    assert 1 < seconds(previews[0], "wav") < 10


def corrects_the_transcript(server: Server, recording: bytes, uploaded: dict[str, Any]) -> dict[str, Any]:
    """What is known of the prompt afterwards."""
    before = server.get("/audio_prompts/metadata/me").json()
    assert before == {
        "prompt_id": "me",
        "file_path": "audio_prompts/me.wav",
        "duration": uploaded["duration"],
        "sample_rate": 44_100,
        "transcript": uploaded["transcript"],
        "transcript_source": "whisper",
        "hash": hashlib.sha256(recording).hexdigest(),
        "discovered_at": before["discovered_at"],
    }
    corrected = httpx.put(f"{server.url}/audio_prompts/me/transcript", json={"transcript": TEXT, "prompt_id": "me"})
    assert corrected.json() == {
        "message": "Transcript of audio prompt 'me' updated successfully",
        "prompt_id": "me",
        "updated_voices": ["myself"],
    }
    assert (server.home / "audio_prompts" / "me.txt").read_text() == f"{TEXT}\n"
    assert server.get("/voice_mappings").json()["myself"]["audio_prompt_transcript"] == TEXT
    known: dict[str, Any] = server.get("/audio_prompts/metadata/me").json()
    assert known == before | {"transcript": TEXT, "transcript_source": "manual"}
    return known


def looks_at_it(server: Server, known: dict[str, Any], uploaded: dict[str, Any]) -> None:
    assert server.get("/v1/audio_prompts/metadata").json()["me"] == known
    details = server.get("/audio_prompts/me").json()
    waveform = details.pop("waveform")
    assert details == known | {"original_sample_rate": uploaded["original_sample_rate"], "channels": "mono"}
    assert len(waveform) == 200
    assert 0.1 < max(waveform) <= 1
    sound = server.get("/audio_prompts/me/audio")
    assert (sound.status_code, sound.headers["content-type"]) == (200, "audio/wav")
    with wave.open(io.BytesIO(sound.content)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, 44_100)
        assert reader.getnframes() / 44_100 == pytest.approx(known["duration"], abs=0.001)


def removes_it(server: Server) -> None:
    used = remove(server, "/audio_prompts/me")
    assert used.status_code == 409
    assert "myself" in used.json()["detail"]
    assert remove(server, "/voice_mappings/myself").json() == {"message": "Voice 'myself' deleted successfully"}
    assert remove(server, "/audio_prompts/me").json() == {"message": "Audio prompt 'me' deleted successfully"}
    assert "me" not in server.get("/audio_prompts").json()
    assert [name for name in kept(server) if name.startswith(("me.", "."))] == []
    for path in ("/audio_prompts/me", "/audio_prompts/me/audio", "/v1/audio_prompts/metadata/me"):
        assert server.get(path).status_code == 404


def test_the_same_id_again(noisy: Server) -> None:
    one, two = wav(voice_like(4, seed=1)), wav(voice_like(5, seed=2))
    assert upload(noisy, "again", one).status_code == 200
    noisy.post("/voice_mappings", {"voice_id": "learner", "audio_prompt": "again"}).raise_for_status()
    corrected = httpx.put(f"{noisy.url}/audio_prompts/again/transcript", json={"transcript": "One."})
    assert corrected.json()["updated_voices"] == ["learner"]
    same = upload(noisy, "again", one)
    assert same.status_code == 200
    assert (same.json()["duration"], same.json()["transcript"]) == (pytest.approx(4, abs=0.05), "One.")
    other = upload(noisy, "again", two)
    assert (other.status_code, "overwrite=true" in other.json()["detail"]) == (409, True)
    replaced = upload(noisy, "again", two, overwrite="true").json()
    assert replaced["duration"] == pytest.approx(5, abs=0.05)
    assert "transcript" not in replaced
    assert noisy.get("/audio_prompts/metadata/again").json()["transcript"] is None
    assert noisy.get("/voice_mappings").json()["learner"]["audio_prompt_transcript"] is None
    remove(noisy, "/voice_mappings/learner")
    remove(noisy, "/audio_prompts/again")


@pytest.mark.parametrize(("seconds", "warned"), [(1.5, True), (4, False), (35, True)])
def test_odd_lengths_are_warned_of(noisy: Server, seconds: float, warned: bool) -> None:
    body = upload(noisy, "length", wav(voice_like(seconds))).json()
    assert ("3 to 30 s" in body.get("warning", "")) == warned
    remove(noisy, "/audio_prompts/length?force=true")


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (voice_like(0.9), "at least 1 s"),
        (voice_like(61), "Failed to process audio file: it is longer than 60 s"),
        (np.zeros(4 * RATE, np.float32), "nearly silent"),
        (voice_like(4) * 0.001, "nearly silent"),
        (np.clip(voice_like(4) * 20, -1, 1), "clipped"),
    ],
)
def test_recordings_that_no_voice_can_be_made_of(noisy: Server, samples: np.ndarray, words: str) -> None:
    answer = upload(noisy, "bad", wav(samples))
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert kept(noisy) == []


def test_silence_goes_and_the_level_is_that_of_all() -> None:
    quiet = np.zeros(2 * RATE, np.float32)
    cleaned = clean(np.concatenate([quiet, voice_like(4) * 0.2, quiet]), RATE)
    assert len(cleaned) / RATE == pytest.approx(4.1, abs=0.12)
    assert speech_level(cleaned, RATE) == pytest.approx(LEVEL_DB, abs=0.1)
    with pytest.raises(BadInput, match="silent"):
        clean(np.zeros(0, np.float32), RATE)


def test_what_is_put_there_by_hand_is_found(noisy: Server) -> None:
    folder = noisy.home / "audio_prompts"
    folder.mkdir(exist_ok=True)
    data = wav(voice_like(3), 22_050)
    (folder / "hand.wav").write_bytes(data)
    (folder / "hand.txt").write_text("By hand.\n")
    (folder / "upload.wav").write_bytes(data)
    (folder / "eight.wav").write_bytes(encoded("wav", "pcm_u8", voice_like(3)))
    (folder / "text.wav").write_text("no sound")
    (folder / "lying.wav").write_bytes(LYING)
    (folder / "long.wav").write_bytes(wav(voice_like(61)))
    assert noisy.get("/audio_prompts").json() == {
        "hand": {"file_path": "audio_prompts/hand.wav", "duration": 6.0, "sample_rate": 22_050, "exists": True}
    }
    before = noisy.get("/audio_prompts/metadata/hand").json()
    assert (before["hash"], before["discovered_at"], before["transcript_source"]) == (None, None, "file")
    found = noisy.post("/audio_prompts/discover", {"force_retranscribe": False}).json()
    metadata = noisy.get("/audio_prompts/metadata/hand").json()
    assert metadata["hash"] == hashlib.sha256(data).hexdigest()
    assert metadata["transcript"] == "By hand."
    assert (found["total_prompts"], found["discovered"]) == (1, [metadata])
    for name in ("upload.wav", "eight.wav", "text.wav", "lying.wav", "long.wav"):
        assert name in found["message"]
        assert noisy.log().count(name) == 1
    again = httpx.post(f"{noisy.url}/v1/audio_prompts/discover", timeout=10)
    assert (again.json()["total_prompts"], again.json()["discovered"]) == (1, [])
    httpx.put(f"{noisy.url}/audio_prompts/hand/transcript", json={"transcript": "By client."}).raise_for_status()
    assert noisy.get("/audio_prompts/metadata/hand").json()["transcript_source"] == "manual"
    (folder / "hand.txt").write_text("By hand again.")
    changed = noisy.get("/audio_prompts/metadata/hand").json()
    assert (changed["transcript"], changed["transcript_source"]) == ("By hand again.", "file")
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"transcript": " "}, 400, "empty"),
        ({"transcript": "a" * 2_001}, 400, "2000"),
        ({"transcript": "a\x1b"}, 400, "U+001B"),
        ({}, 400, "'transcript' is required"),
    ],
)
def test_transcripts_that_are_none(noisy: Server, body: Any, status: int, words: str) -> None:
    upload(noisy, "said", wav(voice_like(3)))
    answer = httpx.put(f"{noisy.url}/audio_prompts/said/transcript", json=body)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True)
    assert httpx.put(f"{noisy.url}/audio_prompts/ghost/transcript", json={"transcript": "a"}).status_code == 404
    remove(noisy, "/audio_prompts/said")


def test_a_prompt_in_use_goes_by_force_only(noisy: Server) -> None:
    upload(noisy, "used", wav(voice_like(3)))
    noisy.post("/voice_mappings", {"voice_id": "user", "audio_prompt": "used"}).raise_for_status()
    assert remove(noisy, "/v1/audio_prompts/used").status_code == 409
    assert remove(noisy, "/v1/audio_prompts/used?force=true").status_code == 200
    entry = next(voice for voice in noisy.get("/voices").json()["voices"] if voice["id"] == "user")
    assert entry["has_audio_prompt"] is False
    assert noisy.get("/voices").json()["problems"] == {
        "user.yaml": "it imitates audio prompt 'used', which is not there"
    }
    remove(noisy, "/voice_mappings/user")


def test_uploads_at_the_same_time_end_in_one_whole_file(noisy: Server) -> None:
    recordings = [wav(voice_like(3 + number, seed=number)) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda data: upload(noisy, "race", data), recordings))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
        answers = list(pool.map(lambda data: upload(noisy, "race", data, overwrite="true"), recordings))
    assert {answer.status_code for answer in answers} == {200}
    metadata = noisy.get("/audio_prompts/metadata/race").json()
    hashes = [hashlib.sha256(data).hexdigest() for data in recordings]
    assert metadata["duration"] == pytest.approx(3 + hashes.index(metadata["hash"]), abs=0.1)
    assert kept(noisy) == ["race.json", "race.wav"]
    remove(noisy, "/audio_prompts/race")


def test_a_prompt_never_stands_beside_another_ones_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PromptStore(tmp_path, Settings())
    origin = Origin(hash="0", discovered_at=now(), original_sample_rate=SAMPLE_RATE)
    store.put("a", voice_like(3), origin)
    store.set_transcript("a", "One.", "manual", origin)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dia_server.voices.prompts.write_wav", fail)
    with pytest.raises(OSError, match="No space"):
        store.put("a", voice_like(4), origin)
    prompt = store.get("a")
    assert (prompt.sound.seconds, prompt.transcript, prompt.origin) == (3, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


class Scribe:
    """Hears what it is told to; fails of recordings whose path has `deaf` in it."""

    def __init__(self, heard: str) -> None:
        self.heard = heard
        self.asked: list[str] = []

    async def transcribe(self, path: Path) -> str:
        self.asked.append(path.stem)
        if "deaf" in path.stem:
            raise Unavailable("not now")
        return self.heard


async def test_a_transcriber_hears_what_nobody_has_written_down(tmp_path: Path) -> None:
    settings, store, scribe = Settings(), PromptStore(tmp_path / "audio_prompts", Settings()), Scribe("Heard.")
    mappings = Mappings(settings, VoiceStore(tmp_path / "voices"), store)
    prompts = Prompts(settings, Pool(settings), store, mappings, scribe)
    (tmp_path / "audio_prompts").mkdir()
    for name in ("deaf", "new", "written"):
        (tmp_path / "audio_prompts" / f"{name}.wav").write_bytes(wav(voice_like(3)))
    (tmp_path / "audio_prompts" / "written.txt").write_text("Written.")
    assert (await prompts.discover(force=False)).prompt_ids == ["deaf", "new", "written"]
    assert scribe.asked == ["deaf", "new"]
    new = store.get("new")
    assert (new.transcript, new.transcript_source) == ("Heard.", "whisper")
    assert (await prompts.discover(force=False)).prompt_ids == []
    scribe.heard = "Heard again."
    await prompts.correct("new", "Corrected.")
    assert (await prompts.discover(force=False)).prompt_ids == []
    assert store.get("new").transcript == "Corrected."
    assert (await prompts.discover(force=True)).prompt_ids == ["new", "written"]
    assert {store.get(name).transcript for name in ("new", "written")} == {"Heard again."}
    assert store.get("deaf").transcript is None
