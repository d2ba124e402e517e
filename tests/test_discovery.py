"""Audio prompts that are discovered and written down by themselves, while people work in the same folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import AUTOMATIC, SENTENCE, Server, make_home, needs_whisper, running_server, wait_until
from dia_server.errors import GenerationFailed, Unavailable
from dia_server.pool.pool import Pool
from dia_server.services.discovery import Discovery
from dia_server.services.mappings import Mappings
from dia_server.services.prompts import Prompts
from dia_server.settings import Lane, Settings
from dia_server.voices.prompts import SAMPLE_RATE, Origin, PromptStore, now
from dia_server.voices.store import VoiceStore
from dia_server.voices.text import Voice
from recordings import voice_like, wav
from sound import mistakes
from test_prompts import NOISE, remove, upload


@pytest.fixture(scope="module")
def spoken(server: Server) -> bytes:
    return server.speak(SENTENCE, seed=2, response_format="wav").content


def folder(server: Server) -> Path:
    return server.home / "audio_prompts"


def known(server: Server, prompt_id: str) -> dict[str, Any]:
    metadata: dict[str, Any] = server.get(f"/audio_prompts/metadata/{prompt_id}").json()
    return metadata


def whisper(server: Server) -> dict[str, Any]:
    every = server.get("/workers").json()["workers"]
    return next(worker for worker in every if worker["lane"] == "tools")


def put(path: Path, data: bytes) -> None:
    """As file managers do: written aside, then renamed."""
    aside = path.with_suffix(".aside")
    aside.write_bytes(data)
    aside.replace(path)


@needs_whisper
def test_what_was_there_before_a_start_is_written_down_even_if_the_last_one_broke_off(listening: Server) -> None:
    metadata = known(listening, "early")
    data = (folder(listening) / "early.wav").read_bytes()
    assert mistakes(SENTENCE, metadata["transcript"]) < 0.1
    assert (metadata["transcript_source"], metadata["hash"]) == ("whisper", hashlib.sha256(data).hexdigest())
    assert listening.log().count('"prompt":"early","is_replaced":') == 1
    assert listening.get("/whisper/status").json()["auto_transcribe"] is True


@needs_whisper
def test_what_is_copied_into_the_folder_is_read_once_it_is_whole(listening: Server, spoken: bytes) -> None:
    written = {"hand": b"By hand.", "old": "Größe".encode("latin-1")}
    for name, transcript in written.items():
        (folder(listening) / f"{name}.txt").write_bytes(transcript)
        put(folder(listening) / f"{name}.wav", spoken)
    step = len(spoken) // 4
    with (folder(listening) / "slow.wav").open("wb") as file:
        for start in range(0, len(spoken), step):
            file.write(spoken[start : start + step])
            file.flush()
            time.sleep(0.5)
    wait_until(lambda: known(listening, "slow")["transcript"])
    assert mistakes(SENTENCE, known(listening, "slow")["transcript"]) < 0.1
    assert {known(listening, name)["hash"] for name in ("slow", *written)} == {hashlib.sha256(spoken).hexdigest()}
    for name, transcript in written.items():
        assert (folder(listening) / f"{name}.txt").read_bytes() == transcript
        assert known(listening, name)["transcript_source"] == "file"
    assert listening.log().count("old.txt") == 1


@needs_whisper
def test_an_upload_waits_for_its_transcript_but_not_for_long(listening: Server, spoken: bytes) -> None:
    pid = whisper(listening)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = upload(listening, "late", spoken).json()
        assert "transcript" not in answer
        assert whisper(listening)["busy"] == 1
        assert listening.speak().status_code == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: known(listening, "late")["transcript"])
    assert mistakes(SENTENCE, known(listening, "late")["transcript"]) < 0.1
    assert mistakes(SENTENCE, upload(listening, "late", spoken).json()["transcript"]) < 0.1
    assert remove(listening, "/audio_prompts/late").status_code == 200


@needs_whisper
def test_whisper_writes_down_what_it_is_asked_to(listening: Server, spoken: bytes) -> None:
    upload(listening, "asked", spoken)
    listening.post("/voice_mappings", {"voice_id": "asked", "audio_prompt": "asked"}).raise_for_status()
    path = "/v1/audio_prompts/asked"
    httpx.put(f"{listening.url}{path}/transcript", json={"transcript": "By hand."}).raise_for_status()
    refused = listening.post(f"{path}/transcribe")
    assert (refused.status_code, known(listening, "asked")["transcript"]) == (409, "By hand.")
    assert "force_retranscribe" in refused.json()["detail"]
    answer = listening.post(f"{path}/transcribe", {"force_retranscribe": True}).json()
    assert mistakes(SENTENCE, answer["transcript"]) < 0.1
    assert answer == {
        "prompt_id": "asked",
        "transcript": known(listening, "asked")["transcript"],
        "saved_to": "audio_prompts/asked.txt",
    }
    assert (listening.home / answer["saved_to"]).read_text().strip() == answer["transcript"]
    # What the voice had learned is gone, so that it goes by the prompt's own.
    assert listening.get("/voice_mappings").json()["asked"]["audio_prompt_transcript"] is None
    assert listening.post(f"{path}/transcribe", {}).json() == answer
    assert listening.post("/audio_prompts/nobody/transcribe").status_code == 404


@needs_whisper
def test_where_nothing_is_said_there_is_no_transcript(listening: Server) -> None:
    put(folder(listening) / "hush.wav", wav(np.zeros(3 * SAMPLE_RATE, np.float32)))
    answer = listening.post("/audio_prompts/hush/transcribe")
    assert (answer.status_code, known(listening, "hush")["transcript"]) == (400, None)
    assert "no words" in answer.json()["detail"]
    assert remove(listening, "/audio_prompts/hush").status_code == 200


def test_without_whisper_the_log_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoken: bytes) -> None:
    # Python takes a module that stands in this table as None for one that isn't there.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['whisper'] = None\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    home = make_home(tmp_path / "home", {**NOISE, **AUTOMATIC})
    (home / "audio_prompts").mkdir()
    (home / "audio_prompts" / "early.wav").write_bytes(spoken)
    with running_server(home) as server:
        wait_until(lambda: "can't be transcribed" in server.log())
        for prompt_id in ("one", "two"):
            assert "transcript" not in upload(server, prompt_id, spoken).json()
        assert known(server, "early")["hash"] == hashlib.sha256(spoken).hexdigest()
        assert server.log().count("can't be transcribed") == 1
        assert "pip install 'dia-server[whisper]'" in server.log()
        assert server.speak().status_code == 200


class Scribe:
    """Writes down what it is told to, as often as it is allowed to."""

    def __init__(self) -> None:
        self.says: Callable[[str], str] = "{} heard.".format
        self.asked: list[str] = []
        self._allowed = 0

    def hear(self, times: int = 1) -> None:
        self._allowed += times

    @property
    def is_held(self) -> bool:
        """It has been asked, and is not allowed to answer yet."""
        return len(self.asked) > self._allowed

    async def transcribe(self, path: Path) -> str:
        self.asked.append(path.stem)
        await until(lambda: not self.is_held)
        return self.says(path.stem)


class Watched(Discovery):
    """Counts how often it has looked at the folder."""

    looks = 0

    async def _look(self) -> bool:
        try:
            return await super()._look()
        finally:
            self.looks += 1


class Folder:
    """A folder that is looked after, without workers, by a clock that stands still until it is moved."""

    def __init__(self, home: Path, **settings: bool) -> None:
        self.time = 100.0
        self.path = home / "audio_prompts"
        self.path.mkdir()
        self.scribe = Scribe()
        self.store = PromptStore(self.path, Settings())
        self.voices = VoiceStore(home / "voices")
        every = Settings(lanes={"speech": Lane(models=("noise",), idle_timeout=1)}, **settings)
        self.pool = Pool(every)
        prompts = Prompts(every, self.pool, self.store, Mappings(every, self.voices, self.store), self.scribe)
        self.discovery = Watched(every, self.pool, self.store, prompts)

    def put(self, *names: str, seconds: float = 1.5) -> None:
        for name in names:
            put(self.path / f"{name}.wav", wav(voice_like(seconds)))

    async def looked(self) -> None:
        """Let it look at the folder as it is, as far as the scribe lets it."""
        # One look may have begun before.
        enough = self.discovery.looks + 2
        await until(lambda: self.discovery.looks >= enough or self.scribe.is_held)

    async def settle(self) -> None:
        """Let it look at the folder as it is, and then again after a while."""
        for _ in range(2):
            await self.looked()
            self.time += 2

    def transcripts(self) -> dict[str, str | None]:
        return {name: prompt.transcript for name, prompt in self.store.list().items()}


@asynccontextmanager
async def looked_after(home: Path, monkeypatch: pytest.MonkeyPatch, **settings: bool) -> AsyncIterator[Folder]:
    there = Folder(home, **settings)
    monkeypatch.setattr("dia_server.services.discovery.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("dia_server.services.discovery.monotonic", lambda: there.time)
    async with there.discovery.running():
        yield there


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_changes_while_whisper_listens_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looked_after(tmp_path, monkeypatch) as there:
        there.put("gone", "replaced", "written")
        await there.settle()
        await until(lambda: there.scribe.asked == ["gone"])
        (there.path / "gone.wav").unlink()
        there.scribe.hear()
        await until(lambda: there.scribe.asked == ["gone", "replaced"])
        there.put("replaced", seconds=2)
        there.scribe.hear()
        await until(lambda: there.scribe.asked == ["gone", "replaced", "written"])
        (there.path / "written.txt").write_text("By hand.")
        there.scribe.hear()
        await there.settle()
        await until(lambda: there.scribe.asked == ["gone", "replaced", "written", "replaced"])
        there.scribe.hear()
        await until(lambda: there.transcripts() == {"replaced": "replaced heard.", "written": "By hand."})
        assert not (there.path / "gone.txt").exists()


async def test_a_new_sound_takes_whispers_transcript_along_but_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looked_after(tmp_path, monkeypatch) as there:
        there.scribe.hear(100)
        there.put("heard", "written")
        (there.path / "written.txt").write_text("By hand.")
        await there.settle()
        await until(lambda: there.transcripts() == {"heard": "heard heard.", "written": "By hand."})
        for name, transcript in there.transcripts().items():
            there.voices.write(name, Voice(audio_prompt=name, audio_prompt_transcript=transcript))
        before = {name: prompt.origin for name, prompt in there.store.list().items()}
        there.scribe.says = "{} again.".format
        there.put("heard", "written", seconds=2)
        await there.settle()
        await until(lambda: there.transcripts() == {"heard": "heard again.", "written": "By hand."})
        learned = {name: voice.audio_prompt_transcript for name, voice in there.voices.list().items()}
        assert learned == {"heard": None, "written": "By hand."}
        for name, prompt in there.store.list().items():
            assert prompt.origin
            assert before[name] not in (None, prompt.origin)
            assert prompt.origin.hash == hashlib.sha256(prompt.path.read_bytes()).hexdigest()


async def test_a_file_that_grows_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = wav(voice_like(3))
    async with looked_after(tmp_path, monkeypatch) as there:
        there.scribe.hear(100)
        for share in (0.2, 0.5, 0.9):
            (there.path / "a.wav").write_bytes(whole[: round(len(whole) * share)])
            await there.looked()
            there.time += 1.9
        assert (there.scribe.asked, there.store.get("a").origin) == ([], None)
        await there.settle()
        await until(lambda: there.scribe.asked == ["a"])


async def test_each_setting_does_its_own_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for noted, heard in ((True, False), (False, True)):
        home = tmp_path / str(noted)
        home.mkdir()
        async with looked_after(home, monkeypatch, auto_discover_prompts=noted, auto_transcribe=heard) as there:
            there.scribe.hear(100)
            there.put("hand")
            origin = Origin(hash="0", discovered_at=now(), original_sample_rate=SAMPLE_RATE)
            there.store.put("uploaded", voice_like(2), origin)
            await there.settle()
            await there.looked()
            assert there.scribe.asked == (["uploaded"] if heard else [])
            assert (there.store.get("hand").origin is not None) == noted


async def test_an_upload_goes_first_and_has_its_transcript_if_that_comes_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin(hash="0", discovered_at=now(), original_sample_rate=SAMPLE_RATE)
    async with looked_after(tmp_path, monkeypatch) as there:
        there.put("a", "b", "c")
        await there.settle()
        await until(lambda: there.scribe.asked == ["a"])
        there.store.put("uploaded", voice_like(2), origin)
        monkeypatch.setattr("dia_server.services.discovery.PATIENCE_SECONDS", 0.05)
        assert await there.discovery.heard("uploaded", there.store.get("uploaded")) is None
        monkeypatch.setattr("dia_server.services.discovery.PATIENCE_SECONDS", 60)
        there.scribe.hear(2)
        assert await there.discovery.heard("uploaded", there.store.get("uploaded")) == "uploaded heard."
        assert there.scribe.asked[:2] == ["a", "uploaded"]


async def test_a_recording_that_fails_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(name: str) -> str:
        if name == "broken":
            raise GenerationFailed("It can't be heard")
        if name == "stuck":
            raise PermissionError(1, "Operation not permitted", "stuck.txt")
        return "" if name == "empty" else "Heard."

    async with looked_after(tmp_path, monkeypatch) as there:
        there.scribe.says = says
        there.scribe.hear(100)
        there.put("broken", "empty", "good", "stuck")
        await there.settle()
        await until(lambda: len(there.scribe.asked) == 4)
        await until(lambda: there.transcripts() == {"broken": None, "empty": None, "good": "Heard.", "stuck": None})
        there.put("later")
        await there.settle()
        await until(lambda: there.transcripts()["later"] == "Heard.")
        assert there.scribe.asked == ["broken", "empty", "good", "stuck", "later"]


async def test_after_a_failure_whisper_gets_a_rest_and_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with looked_after(tmp_path, monkeypatch) as there:
        tries = iter([Unavailable("No room"), Unavailable("No room"), Unavailable("No worker"), None])

        def says(_: str) -> str:
            if error := next(tries):
                raise error
            return "Heard."

        there.scribe.says = says
        there.scribe.hear(100)
        there.put("a")
        await there.settle()
        for number, seconds in enumerate((60, 120, 240), start=1):
            await until(lambda number=number: len(there.scribe.asked) == number)  # type: ignore[misc]
            await there.looked()
            assert len(there.scribe.asked) == number
            there.time += seconds
        await until(lambda: there.transcripts() == {"a": "Heard."})
        log = capsys.readouterr().out
        assert (log.count("No room"), log.count("No worker")) == (1, 1)


async def test_a_drain_does_not_wait_for_whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with looked_after(tmp_path, monkeypatch) as there:
        there.put("a")
        await there.settle()
        await until(lambda: there.scribe.asked == ["a"])
        await there.pool.drain(60)
        there.scribe.hear()
        await asyncio.sleep(0.05)
        assert there.transcripts() == {"a": None}
