"""Whatever kills workers, at whatever moment: every clip is the one that a quiet run makes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_home
from dia_server.blobs import Blobs
from dia_server.errors import ReplayMismatch
from dia_server.pool.clip import Ledger
from dia_server.pool.pool import Pool
from dia_server.services.account import Account
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.references import References
from dia_server.services.speech import Speech
from dia_server.settings import Lane, Settings
from dia_server.voices.prompts import PromptStore
from dia_server.voices.store import VoiceStore

TEXT = "One two three. Four five six seven! (laughs) Eight? [S2] Nine ten, eleven twelve. Thirteen."
EVENT_SECONDS = 0.001


class Stand:
    """A pool of noise workers and a speech service over it, kept over many examples."""

    def __init__(self, workers: int, home: Path) -> None:
        lanes = {"speech": Lane(models=("noise",), processes=workers)}
        self.settings = Settings(lanes=lanes, crash_loop_deaths=1000, task_strikes=1000)
        self.pool = Pool(self.settings)
        references = References(PromptStore(home / "audio_prompts", Settings()), Blobs(home / "blobs"))
        self.speech = Speech(self.settings, self.pool)
        self.planner = Planner(self.settings, self.pool.choice, VoiceStore(home / "voices"), references)

    async def plan(self, audio_format: str, options: dict[str, Any], seed: int = 3) -> Plan:
        """Options go in as parameters do: the request's win over the voice's."""
        request = SpeechRequest(
            text=TEXT, voice="static", format=audio_format, model="noise", seed=seed, speed=1.25, parameters=options
        )
        return await self.planner.plan(request)

    async def clip(self, plan: Plan) -> bytes:
        return b"".join([chunk async for chunk in self.speech.stream(plan, Account())])


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def stands(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Stand]]:
    home = make_home(tmp_path_factory.mktemp("home"))
    stands = {workers: Stand(workers, home) for workers in (1, 2, 3, 4)}
    for stand in stands.values():
        runner.run(stand.pool.start())
    yield stands
    for stand in stands.values():
        runner.run(stand.pool.close())


class Killer:
    """Kills workers as they report: the n-th answers of the pool, counted over all workers, are fatal."""

    def __init__(self, stand: Stand, fatal: dict[int, int]) -> None:
        self._places = stand.pool.places
        self._fatal = fatal
        self._answers = 0
        self.kills = 0

    def __enter__(self) -> Self:
        for place in self._places:
            place._receive = self._watching(place._receive)  # type: ignore[method-assign]  # noqa: SLF001
            if place._worker is not None:  # noqa: SLF001
                place._worker._receive = place._receive  # noqa: SLF001
        return self

    def _watching(self, receive: Any) -> Any:
        def watching(answer: Any) -> None:
            receive(answer)
            self._answers += 1
            if victims := self._fatal.pop(self._answers, 0):
                self._kill(victims)

        return watching

    def _kill(self, victims: int) -> None:
        busiest = sorted(self._places, key=lambda place: -place.busy)
        for worker in [place.info() for place in busiest][:victims]:
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)
                self.kills += 1

    def __exit__(self, *_: object) -> None:
        self._fatal.clear()
        for place in self._places:
            del place._receive  # noqa: SLF001
            if place._worker is not None:  # noqa: SLF001
                place._worker._receive = place._receive  # noqa: SLF001


def digests(clips: list[bytes]) -> list[str]:
    """What to compare in place of clips: where they differ, pytest would take hours to say how."""
    return [f"{len(clip)} bytes, blake2b {blake2b(clip, digest_size=8).hexdigest()}" for clip in clips]


def check_clips(
    runner: asyncio.Runner, stand: Stand, audio_format: str, options: dict[str, Any], fatal: dict[int, int], clips: int
) -> int:
    """Run clips side by side under kills, hold them against a quiet run, and say how many kills there were."""

    async def side_by_side() -> list[str]:
        plans = [await stand.plan(audio_format, options, seed) for seed in range(clips)]
        return digests(await asyncio.gather(*(stand.clip(plan) for plan in plans)))

    async def quiet() -> list[str]:
        return digests([await stand.clip(await stand.plan(audio_format, {}, seed)) for seed in range(clips)])

    with Killer(stand, fatal) as killer:
        disturbed = runner.run(side_by_side())
    assert disturbed == runner.run(quiet())
    return killer.kills


@given(
    workers=st.integers(1, 4),
    audio_format=st.sampled_from(["pcm", "wav", "mp3"]),
    event_samples=st.sampled_from([0, 2500, 9000, 40_000]),
    fatal=st.dictionaries(st.integers(1, 60), st.integers(1, 2), min_size=1, max_size=3),
    clips=st.integers(1, 5),
)
@settings(
    max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_clips_under_kills_equal_the_quiet_ones(
    runner: asyncio.Runner,
    stands: dict[int, Stand],
    workers: int,
    audio_format: str,
    event_samples: int,
    fatal: dict[int, int],
    clips: int,
) -> None:
    options = {"event_samples": event_samples, "ragged": True, "event_seconds": EVENT_SECONDS}
    check_clips(runner, stands[workers], audio_format, options, fatal, clips)


def test_the_check_finds_a_replay_that_is_not_dropped(
    runner: asyncio.Runner, stands: dict[int, Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "accept", lambda _, audio: audio.pcm)
    monkeypatch.setattr(Ledger, "finish", lambda *_: None)
    options = {"event_samples": 5000, "event_seconds": EVENT_SECONDS}
    with pytest.raises(AssertionError):
        check_clips(runner, stands[2], "pcm", options, {5: 2}, clips=1)


def test_a_model_that_does_not_repeat_itself_breaks_the_stream(
    runner: asyncio.Runner, stands: dict[int, Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand, accept = stands[2], Ledger.accept

    def drifting(ledger: Ledger, audio: Any) -> bytes:
        replayed = ledger.seen < ledger.accepted
        return accept(ledger, type(audio)(audio.first_sample, audio.pcm[::-1]) if replayed else audio)

    monkeypatch.setattr(Ledger, "accept", drifting)
    options = {"event_samples": 5000, "event_seconds": EVENT_SECONDS}
    with Killer(stand, {5: 2}) as killer, pytest.raises(ReplayMismatch):
        runner.run(stand.clip(runner.run(stand.plan("pcm", options))))
    assert killer.kills == 2
