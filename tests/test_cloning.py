"""A voice with a recording sounds like it: through a real server, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import pytest
import soxr

from benchmarks import speakers
from benchmarks.hearing import Listener, words_of
from benchmarks.peers import find_environment
from conftest import Server, make_home, running_server, wait_until
from dia_server.blobs import NEW_SECONDS, Blobs
from dia_server.models.matching.pitch import track
from prompts import Recording, recording
from recordings import encoded, voice_like, wav
from sound import RAW_RATE, decode

TEXT = "We had planned to leave at noon, but the bread was still in the oven."
LONG_TEXT = f"{TEXT} My brother keeps three goats, a donkey, and a very loud rooster. " * 5
PASSAGE = (
    f"{TEXT} A letter came for you this afternoon, and it smells faintly of oranges. Nobody remembers who built the "
    "tower, or why it leans toward the sea."
)
# Of 41 words; the plain voice has none wrong.
WORST_ERROR_RATE = 0.13


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A recording without a transcript is to stay so.
    return make_home(tmp_path_factory.mktemp("clones"), {"auto_transcribe": False})


@pytest.fixture(scope="module")
def cloning(home: Path) -> Iterator[Server]:
    with running_server(home) as server:
        server.wait_until_ready()
        yield server


def upload(server: Server, prompt_id: str, file: bytes, **fields: str) -> None:
    form = {"prompt_id": prompt_id, **fields}
    files = {"audio_file": (f"{prompt_id}.flac", file)}
    httpx.post(f"{server.url}/audio_prompts/upload", data=form, files=files, timeout=60).raise_for_status()


def clone(server: Server, voice: str, spoken: Recording, *, with_transcript: bool = True) -> None:
    """A voice that sounds like a recording."""
    upload(server, voice, spoken.file)
    mapping = {"voice_id": voice, "audio_prompt": voice}
    if with_transcript:
        mapping["audio_prompt_transcript"] = spoken.transcript
    server.post("/voice_mappings", mapping).raise_for_status()


def say(server: Server, voice: str, text: str = TEXT, **fields: Any) -> bytes:
    answer = server.speak(text, voice, response_format="pcm", seed=3, **fields)
    assert answer.status_code == 200, answer.text
    return answer.content


def samples_of(pcm: bytes) -> np.ndarray:
    return decode(pcm, "pcm")[0]


def f0_of(samples: np.ndarray, rate: int = RAW_RATE) -> float:
    f0 = track(soxr.resample(samples, rate, RAW_RATE), RAW_RATE, 300)
    return float(np.median(f0[f0 > 0]))


def kill_workers(server: Server) -> None:
    """All of them, and wait for the next ones."""
    before = {worker["pid"] for worker in server.workers()}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: (
            (now := server.workers()) and all(worker["state"] == "up" and worker["pid"] not in before for worker in now)
        )
    )


@pytest.mark.parametrize("name", ["slt", "rms"])
def test_a_clone_has_the_pitch_of_its_recording_and_is_understood(cloning: Server, name: str) -> None:
    spoken = recording(name)
    clone(cloning, f"pitch-{name}", spoken)
    answer = cloning.speak(PASSAGE, f"pitch-{name}", seed=3)
    assert "x-unused-parameters" not in answer.headers
    samples, rate = decode(answer.content, "wav")
    assert f0_of(samples, rate) == pytest.approx(f0_of(*decode(spoken.file, "flac")), rel=0.08)
    heard = Listener().words(wav(samples, rate))
    assert jiwer.wer(" ".join(words_of(PASSAGE)), " ".join(heard)) <= WORST_ERROR_RATE


def test_the_same_bytes_on_every_worker_after_kills_and_without_a_sound_cache(cloning: Server, home: Path) -> None:
    clone(cloning, "same", recording("awb"))
    first = say(cloning, "same")
    assert first != say(cloning, "skylark")
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: say(cloning, "same"), range(8))) == {first}
    shutil.rmtree(home / "cache" / "hibari")
    kill_workers(cloning)
    assert say(cloning, "same") == first
    for file in (home / "cache" / "hibari" / "matches").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    kill_workers(cloning)
    assert say(cloning, "same") == first


def test_only_the_words_of_a_transcript_count_and_only_if_they_are_said(cloning: Server) -> None:
    spoken = recording("slt")
    upload(cloning, "told", spoken.file)

    def told(transcript: str | None) -> bytes:
        mapping = {"voice_id": "told", "audio_prompt": "told", "audio_prompt_transcript": transcript}
        httpx.delete(f"{cloning.url}/voice_mappings/told")
        cloning.post("/voice_mappings", mapping).raise_for_status()
        return say(cloning, "told")

    plain, untold = told(spoken.transcript), told(None)
    assert plain != untold
    assert told(f"[S1] {spoken.transcript} (laughs) [S1]") == plain
    assert len(told(spoken.transcript.upper())) == len(plain)
    for wrong in ("Hm.", "...", "Nothing of the kind was ever said by anybody here."):
        assert told(wrong) == untold


def test_damaged_copies_are_made_anew(cloning: Server, home: Path) -> None:
    clone(cloning, "copied", recording("rms"))
    first = say(cloning, "copied")
    for blob in (home / "blobs").iterdir():
        blob.write_bytes(b"rubbish")
    shutil.rmtree(home / "cache" / "hibari")
    kill_workers(cloning)
    assert say(cloning, "copied") == first


def test_a_copy_of_the_right_size_is_not_taken_for_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    blobs = Blobs(tmp_path / "blobs")
    copy = blobs.path(blobs.keep(tmp_path / "a.wav"), ".wav")
    copy.write_bytes(b"noise")
    blobs.keep(tmp_path / "a.wav")
    assert copy.read_bytes() == b"sound"


def test_uploads_go_on_without_a_cache(cloning: Server, home: Path) -> None:
    shutil.rmtree(home / "cache" / "tmp")
    upload(cloning, "uncached", recording("rms").file)


def test_a_clip_goes_on_with_the_recording_it_began_with(cloning: Server) -> None:
    clone(cloning, "moving", recording("rms"))
    whole = say(cloning, "moving", LONG_TEXT)
    body = {"input": LONG_TEXT, "voice": "moving", "response_format": "pcm", "seed": 3}
    for change in ("replaced", "deleted"):
        with httpx.stream("POST", f"{cloning.url}/v1/audio/speech", json=body, timeout=60) as answer:
            pieces = answer.iter_raw()
            heard = [next(pieces)]
            if change == "replaced":
                upload(cloning, "moving", recording("slt").file, overwrite="true")
                cloning.post("/voice_mappings", {"voice_id": "moving2", "audio_prompt": "moving"}).raise_for_status()
            else:
                httpx.delete(f"{cloning.url}/audio_prompts/moving?force=true").raise_for_status()
            heard += pieces
        assert b"".join(heard) == whole
        if change == "replaced":
            assert say(cloning, "moving2") != say(cloning, "skylark")
            upload(cloning, "moving", recording("rms").file, overwrite="true")
            fields = {"audio_prompt_transcript": recording("rms").transcript}
            httpx.put(f"{cloning.url}/voice_mappings/moving", json=fields).raise_for_status()
    missing = cloning.speak(TEXT, "moving")
    assert missing.status_code == 400
    assert "imitates audio prompt 'moving', which is not there" in missing.json()["error"]["message"]
    assert cloning.get("/preview/moving").status_code == 400


def test_without_a_transcript_it_is_like_the_recording_too(cloning: Server) -> None:
    clone(cloning, "untold", recording("rms"), with_transcript=False)
    untold = say(cloning, "untold")
    assert f0_of(samples_of(untold)) == pytest.approx(f0_of(*decode(recording("rms").file, "flac")), rel=0.08)
    # What is said in the recording may stand with the recording too.
    before = cloning.get("/preview/untold").content
    told = httpx.put(f"{cloning.url}/audio_prompts/untold/transcript", json={"transcript": recording("rms").transcript})
    told.raise_for_status()
    assert say(cloning, "untold") != untold
    assert cloning.get("/preview/untold").content != before


def test_a_recording_without_a_voice_is_refused_in_words(cloning: Server) -> None:
    hiss = voice_like(3)
    upload(cloning, "hiss", encoded("flac", "flac", hiss))
    cloning.post("/voice_mappings", {"voice_id": "hiss", "audio_prompt": "hiss"}).raise_for_status()
    answer = cloning.speak(TEXT, "hiss")
    assert answer.status_code == 400
    assert "no voice in the recording" in answer.json()["error"]["message"]


def test_both_speakers_of_a_cloned_voice_can_be_told_apart(cloning: Server) -> None:
    clone(cloning, "pair", recording("rms"))
    own = f0_of(samples_of(say(cloning, "pair", f"[S1] {TEXT}")))
    other = f0_of(samples_of(say(cloning, "pair", f"[S2] {TEXT}")))
    assert other > 1.4 * own


def test_a_clone_is_more_like_its_recording_than_the_plain_voice(cloning: Server) -> None:
    tools = find_environment(speakers.NAME, speakers.PACKAGES)
    if tools is None:
        pytest.skip("the environment with Resemblyzer is missing; it is made by `make bench ARGS=voices`")
    names = ("slt", "rms")
    for name in names:
        clone(cloning, f"like-{name}", recording(name))
    prompts = [cloning.get(f"/audio_prompts/like-{name}/audio").content for name in names]
    text = f"{TEXT} Nobody remembers who built the tower, or why it leans toward the sea."
    spoken = [
        cloning.speak(text, voice, response_format="wav", seed=3, stream=False).content
        for voice in ("skylark", *(f"like-{name}" for name in names))
    ]
    embeddings = speakers.embed(tools, [*prompts, *spoken])
    for prompt, one in zip(embeddings[:2], embeddings[3:], strict=True):
        assert prompt @ one > 0.75
        assert prompt @ one > prompt @ embeddings[2] + 0.15


def test_a_blob_is_kept_while_a_file_has_its_content(tmp_path: Path) -> None:
    blobs, source = Blobs(tmp_path / "blobs"), tmp_path / "a.wav"
    source.write_bytes(b"one")
    first = blobs.keep(source)
    assert blobs.path(first, ".wav").read_bytes() == b"one"
    assert blobs.keep(source) == first
    source.write_bytes(b"two")
    second = blobs.keep(source)
    source.write_bytes(b"three")
    third = blobs.keep(source)
    make_old(tmp_path / "blobs")
    source.write_bytes(b"four")
    fourth = blobs.keep(source)
    source.write_bytes(b"three")
    blobs.sweep([source], names=[f"{second}.wav"])
    # What a name refers to, what a file holds, and what is new.
    assert {path.stem for path in (tmp_path / "blobs").iterdir()} == {second, third, fourth}


def make_old(folder: Path) -> None:
    before = time.time() - NEW_SECONDS - 1
    for path in folder.iterdir():
        os.utime(path, (before, before))


def test_a_start_removes_the_blobs_of_removed_prompts(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    prompts = home / "audio_prompts"
    prompts.mkdir()
    blobs = Blobs(home / "blobs")
    for name in ("kept", "gone"):
        (prompts / f"{name}.wav").write_bytes(name.encode())
        blobs.keep(prompts / f"{name}.wav")
    (prompts / "gone.wav").unlink()
    make_old(home / "blobs")
    with running_server(home):
        assert [path.read_bytes() for path in (home / "blobs").iterdir()] == [b"kept"]
