"""The recordings of jobs: decoded once for each content, wherever a job runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from dia_server.audio.samples import Samples
from dia_server.audio.wav import read_info
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.pool.pool import Pool, running_pool
from dia_server.services import conditioning as conditioning_module
from dia_server.services.account import Account
from dia_server.services.conditioning import RAW, Conditioning
from dia_server.services.decoding import decode_recording
from dia_server.services.plan import Plan
from dia_server.services.speech_jobs import SpeechJobs
from dia_server.settings import HELPERS, Settings
from dia_server.tasks import Delivery, Reference, Speak
from recordings import RATE, encoded, voice_like

SETTINGS = Settings(lanes={"decode": HELPERS["decode"]})


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """As a `dia-server worker` has it."""
    async with running_pool(SETTINGS, has_listeners=False) as running:
        yield running


def kept(blobs: Blobs, data: bytes) -> Reference:
    sha256 = blobs.put(data, RAW)
    return Reference(path=str(blobs.path(sha256, RAW)), sha256=sha256, transcript="What is said.")


def remove(reference: Reference) -> None:
    Path(reference.path).unlink()


def plan_with(speaker: Reference, manner: Reference) -> Plan:
    delivery = Delivery(emotion_reference=manner)
    task = Speak(model="hibari", text="Hello.", seed=1, references={"S1": speaker}, delivery=delivery)
    return Plan(
        text="Hello.", model="hibari", voice="", audio_prompt=None, seed=1, items=(task, task), sample_rate=24_000,
        tempo=1.0, format="wav", understood=(), unused=(), warning=None,
    )  # fmt: skip


async def test_recordings_become_wavs_once_for_each_content(pool: Pool, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    speaker = kept(blobs, encoded("mp3", "libmp3lame", voice_like(3.0), rate=RATE))
    manner = kept(blobs, encoded("flac", "flac", voice_like(2.0), rate=RATE))
    conditioning = Conditioning(SETTINGS, pool, blobs)
    made = await conditioning.applied(plan_with(speaker, manner))
    for reference in made.references:
        assert Path(reference.path) == blobs.path(reference.sha256, ".wav")
        info = read_info(Path(reference.path))
        assert (info.sample_rate, info.channels) == (44_100, 1)
        assert reference.transcript == "What is said."
    assert len({reference.path for reference in made.references}) == 2
    # Nobody looks into the raw ones again.
    for raw in (speaker, manner):
        remove(raw)
    assert await conditioning.applied(plan_with(speaker, manner)) == made
    assert await conditioning.applied(made) == made


async def test_a_wav_that_was_swept_is_made_again(pool: Pool, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    raw = kept(blobs, encoded("flac", "flac", voice_like(2.0), rate=RATE))
    conditioning = Conditioning(SETTINGS, pool, blobs)
    made = await conditioning.applied(plan_with(raw, raw))
    remove(made.references[0])
    assert await conditioning.applied(plan_with(raw, raw)) == made
    remove(made.references[0])


async def test_what_is_no_recording_is_refused_each_time(pool: Pool, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    raw = kept(blobs, b"no recording")
    conditioning = Conditioning(SETTINGS, pool, blobs)
    for _ in range(2):
        with pytest.raises(BadInput, match="Failed to process audio file"):
            await conditioning.applied(plan_with(raw, raw))


async def test_a_slow_decoding_delays_no_other_recording(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, may_go_on, begun = Blobs(tmp_path), asyncio.Event(), []
    slow = kept(blobs, encoded("flac", "flac", voice_like(2.0), rate=RATE))
    other = kept(blobs, encoded("flac", "flac", voice_like(3.0), rate=RATE))

    async def decode(pool: Pool, untrusted: Path, settings: Settings) -> tuple[Samples, int]:
        begun.append(untrusted)
        if untrusted == Path(slow.path):
            await may_go_on.wait()
        return await decode_recording(pool, untrusted, settings)

    monkeypatch.setattr(conditioning_module, "decode_recording", decode)
    conditioning = Conditioning(SETTINGS, pool, blobs)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(conditioning.applied(plan_with(slow, slow)))
        async with asyncio.timeout(20):
            while not begun:
                await asyncio.sleep(0.01)
            await conditioning.applied(plan_with(other, other))
        may_go_on.set()
    assert begun == [Path(slow.path), Path(other.path)]


class Ageing:
    """Speech that takes more than an hour for each segment."""

    async def behind(self, plan: Plan, account: Account) -> AsyncIterator[bytes]:
        for _ in plan.tasks:
            for reference in plan.references:
                os.utime(reference.path, (0, 0))
            account.segments += 1
            yield bytes(1024)


async def test_the_recordings_of_a_long_task_are_not_swept(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    wav = Reference(path=str(blobs.path(blobs.put(b"decoded", ".wav"), ".wav")), sha256="", transcript="")
    history = SimpleNamespace(saves=False, add=AsyncMock())
    speaking = SpeechJobs(cast("Any", Ageing()), cast("Any", history), blobs)
    kept: list[tuple[float, bool]] = []

    def report(share: float) -> None:
        blobs.sweep([], [])
        kept.append((share, Path(wav.path).exists()))

    await speaking.speak("id", plan_with(wav, wav), tmp_path / "tasks" / "id.1", report)
    assert kept == [(0.5, True), (1.0, True)]
