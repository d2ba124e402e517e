"""Models that are programs of their own: what they are told, what is heard of them, and what goes wrong with them."""

from __future__ import annotations

import json
import logging
import os
import time
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from conftest import wait_until
from dia_server.errors import ModelUnavailable
from dia_server.models.program import ProgramSetup
from dia_server.models.program.engine import load
from dia_server.models.program.sound import BadSound, read_sound
from dia_server.models.protocol import Engine, EngineLost
from dia_server.tasks import Audio, Delivery, Done, Ending, Event, Failed, Reference, Speak
from programs import RATE, RUDE, marked


@pytest.fixture(autouse=True)
def _temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def rude(interpreter: str, tmp_path: Path) -> Iterator[Any]:
    """Starts the rude program with these settings."""
    engines: list[Engine] = []

    def start(**setup: Any) -> Engine:
        environment = {"RUDE_MARK": str(tmp_path / "mark"), **setup.pop("environment", {})}
        fields = {"command": (interpreter, str(RUDE)), "sample_rate": RATE, "environment": environment, **setup}
        engines.append(load(1, msgspec.convert(fields, ProgramSetup)))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def said(text: str, **fields: Any) -> Speak:
    return Speak(model="rude", text=text, **{"seed": 1, **fields})


def outcome(engine: Engine, task: Speak) -> list[Event]:
    engine.admit(1, task)
    events: list[Event] = []
    while not events or not isinstance(events[-1], Ending):
        events += [event for _, event in engine.step()]
    return events


def pcm(engine: Engine, task: Speak) -> bytes:
    events = outcome(engine, task)
    assert isinstance(events[-1], Done), events[-1]
    return b"".join(event.pcm for event in events if isinstance(event, Audio))


def test_the_sound_is_that_of_its_file(rude: Any) -> None:
    samples = np.frombuffer(pcm(rude(), said("Speak.")), "<f4")
    assert len(samples) == RATE
    assert 0.25 < np.abs(samples).max() < 0.28


def test_the_seed_reaches_it(rude: Any) -> None:
    engine = rude()
    first, again, other = (pcm(engine, said("Speak.", seed=seed)) for seed in (1, 1, 2**63 - 1))
    assert first == again
    assert first != other


def test_it_is_told_everything(rude: Any, tmp_path: Path) -> None:
    voice, manner = recording(tmp_path / "voice.wav", 1), recording(tmp_path / "manner.wav", 2)
    delivery = Delivery(emotion=(0.5, *[0.0] * 7), emotion_reference=manner, emotion_strength=0.25)
    engine = rude(options={"pace": 1.5, "loud": False})
    pcm(engine, said("Tell me “more”.", delivery=delivery, references={"S1": voice}, options={"loud": True}))
    order = json.loads((tmp_path / "mark").read_text())["order"]
    assert order.pop("output").endswith(".wav")
    assert order == {
        "id": 1,
        "text": "Tell me “more”.",
        "seed": 1,
        "reference": voice.path,
        "transcript": "Hello.",
        "emotion": [0.5, *[0.0] * 7],
        "emotion_reference": manner.path,
        "emotion_strength": 0.25,
        "options": {"pace": 1.5, "loud": True},
    }


def recording(path: Path, seed: int) -> Reference:
    import hashlib

    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(seed).integers(-99, 99, RATE, np.int16).tobytes())
    return Reference(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), transcript="Hello.")


def test_secrets_and_our_packages_are_not_for_it(rude: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIA_SERVER_API_KEYS", "PYTHONPATH", "OPEN_TO_ALL"):
        monkeypatch.setenv(name, "secret")
    pcm(rude(folder=str(tmp_path)), said("Tell."))
    told = json.loads((tmp_path / "mark").read_text())
    assert told["folder"] == str(tmp_path)
    assert {"DIA_SERVER_API_KEYS", "PYTHONPATH"}.isdisjoint(told["environment"])
    assert told["environment"]["OPEN_TO_ALL"] == "secret"


def test_progress_comes_before_the_sound(rude: Any) -> None:
    engine = rude()
    engine.admit(1, said("Work."))
    steps = [list(engine.step()) for _ in range(31)]
    assert steps[:30] == [[]] * 30
    assert isinstance(steps[30][0][1], Audio)


def test_progress_may_carry_the_number_of_its_order(rude: Any) -> None:
    assert pcm(rude(), said("Number."))


def test_its_refusal_is_the_clients_and_it_stays_up(rude: Any) -> None:
    engine = rude()
    (failed,) = outcome(engine, said("Refuse."))
    assert failed == Failed("The model failed: it is rude to say so", is_input_wrong=True)
    assert pcm(engine, said("Speak."))


def test_a_recording_that_is_gone_is_never_told_of(rude: Any, tmp_path: Path) -> None:
    voice = recording(tmp_path / "voice.wav", 1)
    Path(voice.path).unlink()
    (failed,) = outcome(rude(), said("Tell.", references={"S1": voice}))
    assert isinstance(failed, Failed)
    assert failed.is_input_wrong
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Die.", "ended with exit status 137"),
        ("Leave.", "ended with exit status 1; its last words: no more of this"),
        ("Babble.", "what is no answer .*Loading checkpoint"),
        ("Rant.", "too long or has no end"),
        ("Swap.", "an order that it never had: 8"),
        ("Boast.", "the file is not there"),
        ("Cut.", "no whole wav file"),
        ("Blow up.", "200000000 bytes"),
        ("Scribble.", "no (whole )?wav file"),
        ("Hurry.", "8000 Hz, and 16000 Hz were promised"),
    ],
)
def test_death_and_nonsense_end_the_worker(rude: Any, text: str, words: str) -> None:
    with pytest.raises(EngineLost, match=words):
        outcome(rude(), said(text))


def test_beats_without_an_end_are_no_progress(rude: Any) -> None:
    with pytest.raises(EngineLost, match=r"more than 0\.5 s"):
        outcome(rude(task_seconds=0.5), said("Drone."))


def test_a_death_while_there_is_no_work_shows_with_the_next(rude: Any) -> None:
    engine = rude()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.ZombieProcess):  # of an earlier test
            # Its leash names it too.
            if child.cmdline()[1] == str(RUDE):
                child.kill()
    with pytest.raises(EngineLost, match="ended with exit status 137"):
        outcome(engine, said("Speak."))


def test_a_flood_reaches_the_log_in_part(rude: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pcm(rude(), said("Flood."))
    assert 100 < len(caplog.messages) < 1_000
    assert "left out" in caplog.text
    assert max(map(len, caplog.messages)) < 3_000


def test_a_cancelled_task_is_abandoned_and_the_next_one_heard(rude: Any, tmp_path: Path) -> None:
    engine = rude()
    engine.admit(1, said("Work."))
    engine.step()
    engine.cancel(1)
    assert pcm(engine, said("Speak.")) == pcm(engine, said("Speak."))
    assert list(tmp_path.glob(".program-*")) == []


def test_an_order_that_ended_unheard_is_not_taken_for_one_that_lasts(rude: Any, tmp_path: Path) -> None:
    engine = rude(task_seconds=2.0)
    engine.admit(1, said("Gallop."))
    engine.step()
    engine.cancel(1)
    wait_until((tmp_path / "mark").exists)
    ended = time.monotonic()
    wait_until(lambda: time.monotonic() > ended + 2.0)
    assert pcm(engine, said("Speak."))


def test_a_cache_that_was_deleted_is_made_anew(rude: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache" / "tmp"))
    assert pcm(rude(), said("Speak."))


def test_the_fingerprint_names_version_and_settings(rude: Any) -> None:
    plain, same, other = rude(), rude(), rude(options={"pace": 2})
    assert plain.fingerprint.startswith("rude-")
    assert plain.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"environment": {"RUDE_WORDS": "there is no GPU"}}, "exit status 1; its last words: there is no GPU"),
        ({"environment": {"RUDE_RATE": "8000"}}, "makes 8000 Hz, and its `sample_rate` is set to 16000"),
        ({"command": ["nowhere/python"]}, "can't start nowhere/python: No such file"),
        ({"command": [str(RUDE.parent)]}, "Permission denied"),
        ({"folder": "/nowhere"}, "can't be started in /nowhere: No such file"),
        ({"command": ["/bin/echo", '{"ready": true, "protocol": 2}']}, "version 2 of the protocol"),
        ({"command": ["/bin/echo", '{"id": 1, "ok": true}']}, "something else before it was ready"),
    ],
)
def test_a_program_that_does_not_come_up_says_why(rude: Any, setup: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        rude(**setup)


def test_closing_ends_what_it_has_started(rude: Any, tmp_path: Path) -> None:
    engine = rude()
    engine.admit(1, said("Multiply."))
    engine.step()
    started = marked(tmp_path / "mark")
    engine.close()
    assert len(started) == 2
    wait_until(lambda: not any(map(psutil.pid_exists, started)))


def test_its_own_death_ends_what_it_has_started(rude: Any, tmp_path: Path) -> None:
    engine = rude()
    engine.admit(1, said("Multiply."))
    engine.step()
    program, child = marked(tmp_path / "mark")
    os.kill(program, 9)
    wait_until(lambda: not psutil.pid_exists(child))
    with pytest.raises(EngineLost, match="ended with exit status 137"):
        while True:
            engine.step()


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8"])
def test_wav_files_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    from scipy.io import wavfile

    wanted = np.array([[0.5, 0.5], [-0.5, 0.5], [0.0, 0.25]])
    scale = {"u1": 128, "i2": 1 << 15, "i4": 1 << 31}.get(kind, 1)
    wavfile.write(tmp_path / "x.wav", RATE, (wanted * scale + (128 if kind == "u1" else 0)).astype(kind))
    np.testing.assert_allclose(read_sound(tmp_path / "x.wav", RATE), [0.5, 0.0, 0.125], atol=1e-6)


def test_a_file_without_samples_is_none(tmp_path: Path) -> None:
    from scipy.io import wavfile

    wavfile.write(tmp_path / "x.wav", RATE, np.zeros(0, np.int16))
    with pytest.raises(BadSound, match="no samples"):
        read_sound(tmp_path / "x.wav", RATE)


def test_a_file_that_is_no_sound_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    with pytest.raises(BadSound, match=r"no (whole )?wav file"):
        read_sound(tmp_path / "x.wav", RATE)
