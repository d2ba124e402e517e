"""Emotions in the embedded model, measured on the sound by code that knows nothing of the model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.acoustics import Measures, Sound, measure
from benchmarks.emotions import COLUMNS, PUBLISHED, TWINS, changes
from dia_server.models.hibari import Prosody, Timbre
from dia_server.models.hibari.controls import Manner
from dia_server.models.hibari.emotions import mixed
from dia_server.models.hibari.engine import Speaker, speak
from dia_server.tasks import EMOTIONS, Audio, Delivery, Speak

RATE = 24_000
TEXTS = (
    "The morning train was late again, and nobody on the platform seemed to mind.",
    "Every spring the same swallow returned to the same barn and complained about the same cat.",
    "She found the letter behind a drawer, folded so often that the paper had begun to tear.",
    "When the guests had gone, we opened the windows and sat down on the stairs.",
)


@cache
def speaker() -> Speaker:
    return Speaker("heart", 1)


def weights(**emotions: float) -> tuple[float, ...]:
    return tuple(emotions.get(name, 0.0) for name in EMOTIONS)


def say(text: str, emotion: tuple[float, ...] = (), seed: int = 1, **options: object) -> np.ndarray:
    task = Speak(model="hibari", text=text, seed=seed, delivery=Delivery(emotion=emotion), options=options)
    parts = [event.pcm for event in speak(speaker(), task) if isinstance(event, Audio)]
    return np.frombuffer(b"".join(parts), "<f4")


@cache
def heard(emotion: tuple[float, ...] = ()) -> list[Measures]:
    return [measure(Sound(say(text, emotion), RATE)) for text in TEXTS]


def means(emotion: tuple[float, ...] = ()) -> Measures:
    return Measures(*np.mean(heard(emotion), axis=0))


def directed(**prosody: float) -> Measures:
    return Measures(*np.mean([measure(Sound(say(text, prosody=prosody), RATE)) for text in TEXTS], axis=0))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_goes_the_published_ways(emotion: str) -> None:
    change = changes(heard(), heard(weights(**{emotion: 0.8}))).mean(axis=0)
    for mean, way, (name, _, same) in zip(change, PUBLISHED[emotion], COLUMNS.values(), strict=True):
        assert {"+": mean > same, "-": mean < -same, "0": abs(mean) <= same, ".": True}[way], name


@pytest.mark.parametrize("emotion", ["happy", "sad", "afraid"])
def test_an_emotion_grows_with_its_weight(emotion: str) -> None:
    ways = np.array([1 if way == "+" else -1 for way in PUBLISHED[emotion]])
    moved = [changes(heard(), heard(weights(**{emotion: weight}))).mean(axis=0) for weight in (0.25, 0.5, 0.8)]
    graded = [column for column, way in enumerate(PUBLISHED[emotion]) if way in "+-"]
    steps = np.diff([np.zeros(len(ways)), *moved], axis=0) * ways
    assert (steps[:, graded] > 0).all()


def test_anger_and_fear_are_told_apart() -> None:
    angry, afraid = (means(weights(**{name: 0.8})) for name in TWINS[0])
    assert afraid.pitch > angry.pitch + 1.5
    assert angry.tilt > afraid.tilt + 1.2
    assert angry.level > afraid.level + 1.5
    assert afraid.ending > angry.ending + 1.0
    assert afraid.pauses > angry.pauses


def test_sadness_and_melancholy_are_told_apart() -> None:
    sad, melancholic = (means(weights(**{name: 0.8})) for name in TWINS[1])
    assert melancholic.range < 0.85 * sad.range
    assert sad.harmonicity < melancholic.harmonicity - 1.5
    assert sad.jitter > melancholic.jitter


def test_a_mix_lies_between() -> None:
    happy, both, sad = (means(weights(happy=share, sad=0.8 - share)) for share in (0.8, 0.4, 0.0))
    assert happy.pitch > both.pitch > sad.pitch
    assert happy.speech < both.speech < sad.speech
    assert happy.tilt > both.tilt > sad.tilt


def test_weights_above_one_together_count_as_one() -> None:
    assert mixed((1.0,) * 8) == mixed((0.125,) * 8)
    assert mixed(weights(angry=1.0, afraid=1.0)) == mixed(weights(angry=0.5, afraid=0.5))


def test_all_zero_is_no_emotion() -> None:
    assert np.array_equal(say(TEXTS[0], weights()), say(TEXTS[0]))
    assert np.array_equal(say(TEXTS[0], weights(), use_random=True), say(TEXTS[0]))


def test_an_emotion_varies_with_the_seed_if_it_should() -> None:
    sad = weights(sad=0.8)
    first, again, other = (say(TEXTS[0], sad, seed, use_random=True) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, say(TEXTS[0], sad, 1))
    assert len(first) != len(other)
    assert len(say(TEXTS[0], sad, 1)) == len(say(TEXTS[0], sad, 2))


def test_variation_has_bounds() -> None:
    sad, draw = mixed(weights(sad=0.8)), np.random.default_rng(1)
    for _ in range(50):
        varied = sad.varied(lambda: draw.uniform(0.6, 1.4))
        assert sad.prosody.duration**0.6 <= varied.prosody.duration <= sad.prosody.duration**1.4
        assert varied.timbre.tilt < 0 < varied.timbre.breath < 1
        assert varied.timbre.warp == 1


def test_what_is_said_last_is_lengthened_alone() -> None:
    plain, lengthened = directed(), directed(final=1.6)
    assert 1.02 < lengthened.speech / plain.speech < 1.15
    assert lengthened.pauses == pytest.approx(plain.pauses, abs=0.1)


def test_dynamics_part_loud_from_soft() -> None:
    narrow, plain, wide = (directed(dynamics=factor) for factor in (0.5, 1.0, 1.5))
    assert narrow.dynamics < plain.dynamics - 0.4
    assert wide.dynamics > plain.dynamics + 0.3
    assert wide.level == pytest.approx(plain.level, abs=0.5)


def test_pauses_have_their_length() -> None:
    short, plain, long = (directed(pause=factor) for factor in (0.5, 1.0, 2.0))
    assert short.pauses < 0.9 * plain.pauses
    assert long.pauses > 1.25 * plain.pauses
    assert long.speech == pytest.approx(plain.speech, rel=0.06)


def test_accents_rise_or_fall_within_stressed_vowels() -> None:
    rising, falling = (Sound(say("Nobody minded.", prosody={"accent": accent}), RATE) for accent in (4.0, -4.0))
    both = rising.is_voiced & falling.is_voiced
    apart = 12 * np.log2(rising.f0[both] / falling.f0[both])[:30]
    assert apart.min() < -3
    assert apart.max() > 3
    assert apart.argmin() < apart.argmax()


def test_breath_never_exceeds_all_of_the_voice() -> None:
    breathy = Manner(timbre=Timbre(breath=0.8))
    assert breathy.varied(lambda: 1.4).timbre.breath == 1
    assert breathy.moved(breathy).timbre.breath == pytest.approx(0.96)
    assert Manner().moved(Manner(prosody=Prosody(final=2.0)), 0.5).prosody.final == pytest.approx(2**0.5)
