"""The embedded model between its stages: nothing is lost by cutting it, and every control moves what it names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hibari import Hibari, dsp
from numpy.typing import NDArray

from dia_server.audio.loudness import levelled, speech_level
from dia_server.models.hibari import HibariOptions, Prosody, Timbre
from dia_server.models.hibari.controls import Manner
from dia_server.models.hibari.deliveries import partner_of
from dia_server.models.hibari.emotions import mixed
from dia_server.models.hibari.engine import LEVEL_DB, Speaker, speak
from dia_server.models.hibari.network import Floats, Spectra
from dia_server.models.hibari.reading import Sentence
from dia_server.models.hibari.synthesis import synthesize
from dia_server.tasks import EMOTIONS, Audio, Delivery, Done, Marks, Speak, Word

RATE = 24_000
TEXT = "The morning train was late again, and nobody on the platform seemed to mind."
ODD = (
    'On the 3rd of March 2024, 1,250 people paid $9.99 each at 7:30 pm. "Well," she said, "5 km isn\'t far." '
    "Dr. Smith's co-operation \u2014 what a thing! a.b.c (really)... 12345678901234567890 \u2475 x](/y/) end"
)


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker("heart", 1)


@pytest.fixture(scope="module")
def package() -> Hibari:
    return Hibari(threads=1)


def events(speaker: Speaker, text: str = TEXT, manner: Manner | None = None, **fields: object) -> list[object]:
    manner = manner or Manner()
    options = {"prosody": as_dict(manner.prosody), "timbre": as_dict(manner.timbre)}
    task = Speak(model="hibari", text=text, seed=1, options=options, **fields)  # type: ignore[arg-type]
    return list(speak(speaker, task))


def as_dict(controls: Prosody | Timbre) -> dict[str, float]:
    return {name: getattr(controls, name) for name in controls.__struct_fields__}


def samples(speaker: Speaker, text: str = TEXT, manner: Manner | None = None, **fields: object) -> Floats:
    heard = events(speaker, text, manner, **fields)
    return np.concatenate([np.frombuffer(event.pcm, "<f4") for event in heard if isinstance(event, Audio)])


def words(speaker: Speaker, text: str) -> list[Word]:
    return [word for event in events(speaker, text) if isinstance(event, Marks) for word in event.words]


def sentences(speaker: Speaker, text: str = TEXT) -> Iterator[Sentence]:
    return speaker.reader.read(text)


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.7])
def test_the_stages_in_a_row_are_the_whole_graph(speaker: Speaker, package: Hibari, speed: float) -> None:
    for sentence in sentences(speaker, f"{TEXT} {ODD}"):
        inputs = {"ids": np.asarray([sentence.ids]), "speed": np.asarray([speed], np.float32)}
        *whole, whole_f0 = package.sess.run(None, inputs)
        durations, hidden = speaker.network.durations(sentence.ids, speed)
        f0, energy = speaker.network.melody(durations, hidden)
        spectra = speaker.network.spectra(sentence.ids, durations, f0, energy)
        assert np.array_equal(f0, whole_f0[0])
        assert all(np.array_equal(ours, theirs[0]) for ours, theirs in zip(spectra, whole, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Yes.",
        "",
        "...",
        "At 5 km, e.g. with Dr. J. K. Lee's cat, see No. 7.",
        "word, " * 120,
        *ODD.split(". ")[:2],
    ],
)
def test_a_sentence_is_read_as_the_package_reads_it(speaker: Speaker, package: Hibari, text: str) -> None:
    phonemes = package.g2p(text)
    read = [number for sentence in sentences(speaker, text) for number in sentence.ids if number]
    # The blank between two pieces of a long sentence is in neither.
    whole = [number for number in package.ids(phonemes) if number]
    assert read == whole or (len(phonemes) > 400 and len(whole) - 3 <= len(read) < len(whole))


@pytest.mark.parametrize("text", ["$777777777777777 " * 14, "%" * 100, "999999999999999" * 16, "word " * 200])
def test_what_reads_long_is_cut_short(speaker: Speaker, text: str) -> None:
    pieces = list(sentences(speaker, text))
    assert max(len(piece.ids) for piece in pieces) <= 402
    assert sum(len(piece.ids) for piece in pieces) > 400


def test_punctuation_alone_is_not_as_loud_as_speech(speaker: Speaker) -> None:
    for text in ("...", "!!! ???"):
        assert np.abs(samples(speaker, text)).max(initial=0) < 0.3 * np.abs(samples(speaker)).max()


def test_the_plain_voice_is_the_package_at_our_level(speaker: Speaker, package: Hibari) -> None:
    ours, plain = samples(speaker), levelled(package(TEXT, seed=1), RATE, LEVEL_DB)
    # They draw their noise differently, and noise is 45 dB below this voice.
    assert np.std(ours - plain) < 0.02 * np.std(plain)


def test_noise_is_as_loud_as_the_packages() -> None:
    silence, flat = np.full((601, 400), -50, np.float32), np.zeros((601, 400), np.float32)
    only_noise = Spectra(silence, flat, flat, silence, flat)
    f0 = np.zeros(400, np.float32)
    ours = synthesize(only_noise, f0, np.random.default_rng(1))
    theirs = dsp.synth(*(part.copy() for part in only_noise), f0, np.random.default_rng(1))
    frequencies = np.geomspace(200, 8000, 20)
    assert envelope(ours, frequencies) == pytest.approx(envelope(theirs, frequencies), abs=1.0)
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.02)


def test_words_are_marked_as_they_are_written(speaker: Speaker) -> None:
    marks = words(speaker, ODD)
    assert [mark.text for mark in marks][:11] == [
        *("On", "the", "3rd", "of", "March", "2024,", "1,250", "people", "paid", "$9.99", "each")
    ]  # fmt: skip
    assert "7:30 pm." in [mark.text for mark in marks]
    written = [word for word in ODD.split() if any(letter.isalnum() for letter in word)]
    assert " ".join(mark.text for mark in marks).split() == written


def test_marks_stand_in_order_within_the_samples(speaker: Speaker) -> None:
    heard = events(speaker, f"{TEXT} {ODD} {TEXT}")
    end = 0
    first, count = 0, 0
    for event in heard:
        if isinstance(event, Marks):
            for word in event.words:
                assert count <= word.start < word.end
                assert word.start >= end
                end = word.end
        elif isinstance(event, Audio):
            first, count = event.first_sample, event.first_sample + len(event.pcm) // 4
            assert first <= end <= count
    assert isinstance(heard[-1], Done)
    assert heard[-1].samples == count


def test_marks_move_with_the_pace(speaker: Speaker) -> None:
    slow = events(speaker, TEXT, delivery=Delivery(speed=0.5))
    marks = next(event for event in slow if isinstance(event, Marks))
    plain = words(speaker, TEXT)
    assert [word.text for word in marks.words] == [word.text for word in plain]
    assert 1.7 < marks.words[-1].start / plain[-1].start < 2.3


def melody(speaker: Speaker, manner: Manner) -> NDArray[np.float64]:
    """F0 of the voiced frames by autocorrelation, an instrument that knows nothing of the model."""
    heard = samples(speaker, manner=manner).astype(float)
    found = []
    for start in range(0, len(heard) - 1200, 240):
        frame = heard[start : start + 1200] * np.hanning(1200)
        if np.sqrt(np.mean(frame**2)) < 0.02:
            continue
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 4096)) ** 2)[:600]
        lag = 48 + int(np.argmax(correlation[48:480]))
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(RATE / lag)
    return np.array(found)


def test_pitch_and_range_move_the_melody(speaker: Speaker) -> None:
    plain = melody(speaker, Manner())
    low = melody(speaker, Manner(prosody=Prosody(f0=0.6)))
    assert np.median(low) == pytest.approx(0.6 * np.median(plain), rel=0.08)
    spreads = [
        np.subtract(*np.percentile(np.log2(melody(speaker, Manner(prosody=Prosody(f0_range=factor)))), [85, 15]))
        for factor in (0.3, 1.0, 1.8)
    ]
    assert spreads[0] < 0.6 * spreads[1]
    assert spreads[2] > 1.3 * spreads[1]


def test_the_end_rises_or_falls(speaker: Speaker) -> None:
    rising, plain, falling = (melody(speaker, Manner(prosody=Prosody(f0_final=step)))[-12:] for step in (6, 0, -6))
    assert np.median(rising) > 1.1 * np.median(plain) > 1.1 * 1.1 * np.median(falling)


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_durations_are_exact(speaker: Speaker, factor: float) -> None:
    plain, changed = len(samples(speaker)), len(samples(speaker, manner=Manner(prosody=Prosody(duration=factor))))
    assert changed == pytest.approx(factor * plain, rel=0.04)


def test_pauses_lengthen_only_pauses(speaker: Speaker) -> None:
    plain = words(speaker, TEXT)
    paused = next(
        event for event in events(speaker, manner=Manner(prosody=Prosody(pause=3.0))) if isinstance(event, Marks)
    ).words
    # Words beside a pause may begin or fade in it.
    inner = [*range(1, 5), *range(7, 13)]
    lengths = [[word.end - word.start for word in marks] for marks in (paused, plain)]
    assert [lengths[0][n] for n in inner] == pytest.approx([lengths[1][n] for n in inner], abs=600)
    assert paused[-1].start > plain[-1].start + 2400


def envelope(heard: Floats, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    """The long-term spectrum in dB at some frequencies, smoothed over a third of an octave."""
    power = np.abs(np.fft.rfft(heard)) ** 2
    bins = np.fft.rfftfreq(len(heard), 1 / RATE)
    return np.array(
        [10 * np.log10(power[(bins > f * 0.89) & (bins < f * 1.12)].mean()) for f in frequencies], dtype=float
    )


@pytest.mark.parametrize("warp", [0.85, 1.2])
def test_warp_moves_the_formants(speaker: Speaker, warp: float) -> None:
    frequencies = np.geomspace(400, 6000, 80)
    moved = envelope(samples(speaker, manner=Manner(timbre=Timbre(warp=warp))), frequencies)
    plain = samples(speaker)
    shifts = np.geomspace(0.7, 1.45, 30)
    likeness = [np.corrcoef(moved, envelope(plain, frequencies / shift))[0, 1] for shift in shifts]
    assert shifts[int(np.argmax(likeness))] == pytest.approx(warp, rel=0.07)


@pytest.mark.parametrize(
    ("timbre", "low", "high"),
    [(Timbre(tilt=3), 500, 4000), (Timbre(presence=6), 500, 3000), (Timbre(tilt=-3), 4000, 500)],
)
def test_tilt_and_presence_move_the_balance(speaker: Speaker, timbre: Timbre, low: float, high: float) -> None:
    balances = []
    for manner in (Manner(), Manner(timbre=timbre)):
        levels = envelope(samples(speaker, manner=manner), np.array([low, high], dtype=float))
        balances.append(levels[1] - levels[0])
    assert 4 < balances[1] - balances[0] < 12


def test_a_whisper_has_no_melody(speaker: Speaker) -> None:
    whisper = Manner(timbre=Timbre(breath=1.0))
    assert len(melody(speaker, whisper)) < 0.3 * len(melody(speaker, Manner()))


@pytest.mark.parametrize("gain", [-10.0, 0.0, 3.0])
@pytest.mark.parametrize("effort", [0.7, 1.3])
def test_the_level_is_even(speaker: Speaker, gain: float, effort: float) -> None:
    manner = Manner(prosody=Prosody(effort=effort), timbre=Timbre(gain=gain))
    heard = samples(speaker, manner=manner)
    assert speech_level(heard, RATE) == pytest.approx(LEVEL_DB + gain, abs=0.5)
    assert np.abs(heard).max() < 1


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_sounds_and_differs(speaker: Speaker, emotion: str) -> None:
    weights = tuple(float(name == emotion) for name in EMOTIONS)
    moved = samples(speaker, delivery=Delivery(emotion=weights))
    assert np.isfinite(moved).all()
    assert not np.array_equal(moved[: len(samples(speaker))], samples(speaker)[: len(moved)])


def test_weights_scale_an_emotion() -> None:
    strengths = [mixed((weight,)).prosody for weight in (0.0, 0.5, 1.0)]
    assert strengths[0] == Prosody()
    assert 1 < strengths[1].f0 < strengths[2].f0
    assert strengths[1].f0 ** 2 == pytest.approx(strengths[2].f0)


def test_a_partner_is_someone_else() -> None:
    for f0 in (0.55, 1.0, 1.4):
        voice = Manner(prosody=Prosody(f0=f0))
        partner = partner_of(voice)
        assert not 0.75 < partner.prosody.f0 / f0 < 1.35


def test_an_unknown_style_is_neutral(speaker: Speaker) -> None:
    assert np.array_equal(samples(speaker, delivery=Delivery(style="seed_based")), samples(speaker))


def test_options_have_bounds() -> None:
    with pytest.raises(ValueError, match="base 'nobody' is not known; known are heart, emma"):
        HibariOptions(base="nobody")


def test_a_word_ends_where_it_fades(speaker: Speaker) -> None:
    heard, marks = samples(speaker, "Well, my dear friend."), words(speaker, "Well, my dear friend.")
    for word in marks:
        assert np.abs(heard[word.start : word.end]).max() > 0.05, word
    rest = heard[marks[-1].end + 1200 :]
    assert len(rest) > 4000
    assert np.abs(rest).max() < 0.01
