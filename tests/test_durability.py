"""kill -9 of the server while it stores things: every file is whole, the old one or the new one."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from conftest import NOISE, START_SECONDS, Server, make_home, running_server
from dia_server.audio.wav import read_info
from dia_server.home import ABANDONED_SECONDS, open_home
from dia_server.settings import Settings
from dia_server.voices.prompts import SAMPLE_RATE, PromptStore
from dia_server.voices.store import VoiceStore
from recordings import voice_like, wav

# Each recording has a length and a transcript of its own, each state of the voice a seed and a transcript.
RECORDINGS = [wav(voice_like(2 + number, seed=number)) for number in range(3)]


def edit(url: str, over: threading.Event, begun: threading.Event, dice: random.Random) -> None:
    """Upload and change without a pause, until the server is gone."""
    with httpx.Client(base_url=url, timeout=10) as client:
        while not over.is_set():
            number = dice.randrange(len(RECORDINGS))
            form = {"prompt_id": "me", "overwrite": "true"}
            try:
                client.post("/audio_prompts/upload", data=form, files={"audio_file": ("a.wav", RECORDINGS[number])})
                begun.set()
                client.put("/audio_prompts/me/transcript", json={"transcript": f"Number {number}. " * 20})
                seed = dice.randrange(1, 1000)
                body = {"voice_seed": seed, "audio_prompt_transcript": f"Seed {seed}. " * 20}
                if client.put("/voice_mappings/mine", json=body).status_code == 404:
                    client.post("/voice_mappings", json={"voice_id": "mine", **body})
                if dice.random() < 0.1:
                    client.delete("/voice_mappings/mine")
            except httpx.TransportError:
                return


@contextmanager
def editors(server: Server, dice: random.Random) -> Iterator[None]:
    """They have begun to store things."""
    over, begun = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=edit, args=(server.url, over, begun, random.Random(dice.random()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        assert begun.wait(START_SECONDS)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def check(home: Path) -> None:
    """Everything that is there is whole, and tells of one moment."""
    voices = VoiceStore(home / "voices")
    assert voices.problems == {}
    mine = voices.list().get("mine")
    if mine is not None and mine.voice_seed is not None:
        assert mine.audio_prompt_transcript == (f"Seed {mine.voice_seed}. " * 20).strip()
    prompts = PromptStore(home / "audio_prompts", Settings())
    assert prompts.problems == {}
    for prompt in prompts.list().values():
        info = read_info(prompt.path)
        assert info.sample_rate == SAMPLE_RATE
        assert prompt.path.stat().st_size == 44 + 2 * info.frames
        number = round(info.seconds) - 2
        assert abs(info.seconds - 2 - number) < 0.1
        if prompt.origin is not None:
            assert prompt.origin.hash == hashlib.sha256(RECORDINGS[number]).hexdigest()
    notes = home / "audio_prompts"
    whole = {f"me{suffix}" for suffix in (".wav", ".txt", ".json")}
    assert {path.name for path in notes.glob("*") if not path.name.startswith(".")} <= whole


def kill_again_and_again(home: Path, times: int) -> None:
    dice = random.Random(times)
    make_home(home, NOISE)
    for _ in range(times):
        with running_server(home) as server, editors(server, dice):
            time.sleep(dice.random() / 2)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        check(home)
    with running_server(home) as server:
        assert (home / "audio_prompts" / "me.wav").exists()
        assert server.get("/audio_prompts/me").status_code == 200


def test_ten_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 10)


@pytest.mark.soak
def test_fifty_kills(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 50)


def test_what_a_kill_leaves_is_swept_later(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    (home / "audio_prompts").mkdir()
    (home / "cache" / "tmp").mkdir(parents=True)
    old, young, foreign, half = (
        home / "voices" / ".x.part",
        home / "cache" / "tmp" / ".upload-y.part",
        home / "audio_prompts" / ".z",
        home / ".examples.0.part",
    )
    half.mkdir()
    for path in (old, young, foreign, half / "owl.wav"):
        path.touch()
    before = time.time() - ABANDONED_SECONDS - 1
    for path in (old, foreign, half):
        os.utime(path, (before, before))
    open_home(home)
    assert [path.exists() for path in (old, young, foreign, half)] == [False, True, True, False]
