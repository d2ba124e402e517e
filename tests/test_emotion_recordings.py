"""A task takes over the manner of a recording, whoever speaks in it; the recordings are the model's own speech."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soxr

from benchmarks.acoustics import Measures, Sound, measure
from dia_server.audio.wav import write_wav
from dia_server.models.hibari.engine import Speaker, load, speak
from dia_server.models.hibari.manners import Manners, manner_of
from dia_server.models.matching.traits import Traits, traits_of
from dia_server.models.protocol import Engine, NoSetup
from dia_server.tasks import EMOTIONS, Audio, Delivery, Failed, Reference, Speak
from recordings import voice_like

RATE = 24_000
TEXT = (
    "We had planned to leave at noon, but the bread was still in the oven. Nobody remembers who built the tower, or "
    "why it leans toward the sea. She found the letter behind a drawer, folded so often that the paper had torn."
)
SAID = (
    "The harbour was quiet when the ferry came in, and only a few people stood on the pier. On Saturday we drove out "
    "to my uncle's farm to help him with the fence. It was a warm morning, and the dog ran ahead of us on the grass."
)


@cache
def said(emotion: str | None = None, text: str = SAID) -> np.ndarray:
    weights = tuple(0.9 * (name == emotion) for name in EMOTIONS)
    task = Speak(model="hibari", text=text, seed=1, delivery=Delivery(emotion=weights))
    parts = [event.pcm for event in speak(speaker(), task) if isinstance(event, Audio)]
    return np.frombuffer(b"".join(parts), "<f4")


@cache
def speaker() -> Speaker:
    return Speaker("heart", 1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIBARI_HOME", str(tmp_path_factory.mktemp("cache")))
        yield load(1, NoSetup())


def kept(folder: Path, samples: np.ndarray, rate: int = RATE, transcript: str | None = None) -> Reference:
    """A recording as a task refers to it."""
    file = io.BytesIO()
    write_wav(file, samples.astype(np.float32), rate)
    return kept_bytes(folder, file.getvalue(), transcript)


def kept_bytes(folder: Path, data: bytes, transcript: str | None = None) -> Reference:
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"{sha256}.wav"
    path.write_bytes(data)
    return Reference(path=str(path), sha256=sha256, transcript=transcript)


def run(engine: Engine, delivery: Delivery, **fields: object) -> np.ndarray:
    """What the engine says."""
    engine.admit(1, Speak(model="hibari", text=TEXT, seed=1, delivery=delivery, **fields))  # type: ignore[arg-type]
    parts = []
    while events := list(engine.step()):
        for _, event in events:
            assert not isinstance(event, Failed), event.message
            parts += [event.pcm] if isinstance(event, Audio) else []
    return np.frombuffer(b"".join(parts), "<f4")


def taken(engine: Engine, reference: Reference, strength: float) -> Measures:
    sound = run(engine, Delivery(emotion_reference=reference, emotion_strength=strength))
    return measure(Sound(sound, RATE))


def test_the_manner_of_a_sad_recording_is_taken_over(engine: Engine, tmp_path: Path) -> None:
    reference = kept(tmp_path, said("sad"))
    plain, half, whole = (taken(engine, reference, strength) for strength in (0.0, 0.5, 1.0))
    assert plain.pitch > half.pitch > whole.pitch
    assert plain.range > half.range > whole.range
    assert plain.speech < half.speech < whole.speech
    assert plain.tilt > half.tilt > whole.tilt
    assert plain.harmonicity > whole.harmonicity
    assert whole.speech > 1.1 * plain.speech


def test_the_manner_of_an_angry_recording_is_another(engine: Engine, tmp_path: Path) -> None:
    plain, angry = (taken(engine, kept(tmp_path, said("angry")), strength) for strength in (0.0, 1.0))
    assert angry.pitch > plain.pitch + 0.5
    assert angry.range > 1.15 * plain.range
    assert angry.speech < 0.95 * plain.speech
    assert angry.tilt > plain.tilt + 0.5
    assert angry.level > plain.level


def test_a_plain_recording_changes_little(engine: Engine, tmp_path: Path) -> None:
    plain, moved = (taken(engine, kept(tmp_path, said()), strength) for strength in (0.0, 1.0))
    assert moved.pitch == pytest.approx(plain.pitch, abs=0.8)
    assert moved.speech == pytest.approx(plain.speech, rel=0.12)
    assert moved.tilt == pytest.approx(plain.tilt, abs=0.5)
    assert moved.harmonicity == pytest.approx(plain.harmonicity, abs=1.5)


def test_none_of_a_manner_is_no_change(engine: Engine, tmp_path: Path) -> None:
    reference = kept(tmp_path, said("angry"))
    plain = run(engine, Delivery())
    assert np.array_equal(run(engine, Delivery(emotion_reference=reference, emotion_strength=0.0)), plain)
    assert not np.array_equal(run(engine, Delivery(emotion_reference=reference)), plain)


def test_weights_count_instead_of_the_recording(engine: Engine, tmp_path: Path) -> None:
    sad, unreadable = (0.0, 0.0, 0.8), Reference(path=str(tmp_path / "gone.wav"), sha256="0" * 64)
    both = run(engine, Delivery(emotion=sad, emotion_reference=unreadable))
    assert np.array_equal(both, run(engine, Delivery(emotion=sad)))


def test_weights_of_zero_leave_it_to_the_recording(engine: Engine, tmp_path: Path) -> None:
    reference = kept(tmp_path, said("sad"))
    both = run(engine, Delivery(emotion=(0.0,) * 8, emotion_reference=reference))
    assert np.array_equal(both, run(engine, Delivery(emotion_reference=reference)))


def test_a_speakers_own_recording_is_no_change(engine: Engine, tmp_path: Path) -> None:
    own = kept(tmp_path, said("happy"), transcript=SAID)
    plain = run(engine, Delivery(), references={"S1": own})
    assert np.array_equal(run(engine, Delivery(emotion_reference=own), references={"S1": own}), plain)
    moved = run(engine, Delivery(emotion_reference=kept(tmp_path, said("sad"))), references={"S1": own})
    assert len(moved) > 1.2 * len(plain)


def test_the_manner_varies_if_it_should(engine: Engine, tmp_path: Path) -> None:
    delivery = Delivery(emotion_reference=kept(tmp_path, said("sad")))
    varied, again = (run(engine, delivery, options={"use_random": True}) for _ in range(2))
    assert np.array_equal(varied, again)
    assert not np.array_equal(varied, run(engine, delivery))


def test_neither_level_nor_rate_of_a_recording_matters() -> None:
    loud, soft = (traits_of(said("sad"), RATE), traits_of(soxr.resample(0.1 * said("sad"), RATE, 44_100), 44_100))
    assert loud == pytest.approx(soft, rel=0.03)


def test_of_somebody_elses_pitch_half_its_distance_from_the_usual_one_counts() -> None:
    own = traits_of(said(), RATE)._replace(pitch=82.0)
    for is_recorded in (True, False):
        pitches = [
            12 * np.log2(manner_of(own._replace(pitch=pitch), own, is_recorded=is_recorded).prosody.f0)
            for pitch in (90.3, 92.3, 95.3)
        ]
        assert pitches == pytest.approx([-1.0, 0.0, 1.5])


def test_of_the_speakers_own_pitch_all_counts() -> None:
    own = traits_of(said(), RATE)._replace(pitch=89.0)
    pitches = [
        12 * np.log2(manner_of(own._replace(pitch=pitch), own, is_recorded=True).prosody.f0)
        for pitch in (85.0, 89.0, 93.5)
    ]
    assert pitches == pytest.approx([-4.0, 0.0, 4.5])


def test_no_recording_makes_speech_that_is_none() -> None:
    own = traits_of(said(), RATE)
    for wanted in (Traits(40, 0, 0.1, 0, -40, 4, 0), Traits(110, 12, 20, 9, 20, 40, 30)):
        for one, other in ((wanted, own), (own, wanted)):
            manner = manner_of(one, other, is_recorded=True)
            assert 0.7 < manner.prosody.f0 < 1.4
            assert 0.4 <= manner.prosody.f0_range <= 2
            assert 0.8 <= manner.prosody.duration <= 1.5
            assert 0 <= manner.timbre.breath <= 0.4
            assert abs(manner.timbre.gain) <= 3


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(3 * RATE), "hardly a voice"),
        (voice_like(3.0), "hardly a voice"),
        (said()[: RATE // 2], "at least 0.5 s of one"),
        (np.zeros(0), "hardly a voice"),
    ],
    ids=["silence", "noise", "too short", "empty"],
)
def test_a_recording_without_a_voice_is_refused(
    engine: Engine, tmp_path: Path, samples: np.ndarray, reason: str
) -> None:
    assert reason in failure(engine, kept(tmp_path, samples))


def test_what_is_no_recording_is_refused(engine: Engine, tmp_path: Path) -> None:
    assert "is no wav file" in failure(engine, kept_bytes(tmp_path, b"RIFF, or so it says"))
    gone = Reference(path=str(tmp_path / "gone.wav"), sha256="0" * 64)
    assert "The emotion's recording can't be read" in failure(engine, gone)
    other = kept(tmp_path, said())
    Path(other.path).write_bytes(b"something else")
    assert "not the one that was asked for" in failure(engine, Reference(path=other.path, sha256="1" * 64))


def failure(engine: Engine, reference: Reference) -> str:
    engine.admit(1, Speak(model="hibari", text=TEXT, seed=1, delivery=Delivery(emotion_reference=reference)))
    ((_, event),) = engine.step()
    assert isinstance(event, Failed)
    assert event.is_input_wrong
    return event.message


def test_a_recording_is_measured_once(tmp_path: Path) -> None:
    reference = kept(tmp_path, said("sad"))
    first = Manners(tmp_path / "manners", "f").of_recording(reference, "It")
    Path(reference.path).unlink()
    assert Manners(tmp_path / "manners", "f").of_recording(reference, "It") == first


def test_a_whispering_voice_can_take_over_a_manner(engine: Engine, tmp_path: Path) -> None:
    sad, whisper = Delivery(emotion_reference=kept(tmp_path, said("sad"))), {"timbre": {"breath": 1.0}}
    assert len(run(engine, sad, options=whisper)) > 1.1 * len(run(engine, Delivery(), options=whisper))


def test_a_deep_voice_stays_deep_in_a_womans_manner(engine: Engine, tmp_path: Path) -> None:
    low = {"prosody": {"f0": 0.6}, "timbre": {"warp": 0.85}}
    plain, moved = (
        measure(Sound(run(engine, delivery, options=low), RATE))
        for delivery in (Delivery(), Delivery(emotion_reference=kept(tmp_path, said("sad"))))
    )
    assert moved.pitch < plain.pitch + 0.2
    assert moved.speech > 1.1 * plain.speech
