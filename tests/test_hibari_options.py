"""The embedded model's own options: what they change in the sound, and that by default they change nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from conftest import Server, wait_until
from contract import configured
from dia_server.models import registry
from dia_server.models.hibari import HibariOptions
from dia_server.models.hibari.cloning import Cloning
from dia_server.models.hibari.engine import Speaker, speak
from dia_server.models.hibari.judging import Reading, judged
from dia_server.models.hibari.normalizing import plain
from dia_server.models.matching.analysis import analyse, cepstra
from dia_server.models.matching.denoising import denoised
from dia_server.models.matching.matcher import Match
from dia_server.models.protocol import Engine
from dia_server.tasks import Audio, Delivery, Done, Event, Marks, Reference, Speak, derive_seed
from prompts import recording
from recordings import wav
from sound import decode

RATE = 24_000
TEXT = "We had planned to leave at noon, but the bread was still in the oven."
ANGRY = Delivery(emotion=(0, 0.8, 0, 0, 0, 0, 0, 0))
SLOW = {"prosody": {"duration": 2.0}}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    loaded = registry.load_engine("hibari", 1, {})
    yield loaded
    loaded.close()


def run(engine: Engine, text: str = TEXT, delivery: Delivery = ANGRY, **options: Any) -> list[Event]:
    """All events; the angry jitter makes seeds differ."""
    engine.admit(1, Speak(model="hibari", text=text, seed=5, delivery=delivery, options=options))
    events: list[Event] = []
    while not events or not isinstance(events[-1], Done):
        events += [event for _, event in engine.step()]
    return events


def pcm(events: list[Event]) -> bytes:
    return b"".join(event.pcm for event in events if isinstance(event, Audio))


def done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


# Readings made anew.


@dataclass
class Speech:
    """Readings of given lengths, one after the other, as the model would say them."""

    seconds: list[float]
    peak: float = 0.5
    seeds: list[int] = field(default_factory=list)

    def say(self, task: Speak) -> Iterator[Event]:
        self.seeds.append(task.seed)
        length = self.seconds[len(self.seeds) - 1]
        yield Audio(0, np.full(round(length * RATE), self.peak, "<f4").tobytes())
        reading = Reading(phonemes=9, plain_seconds=1.0, seconds=length, peak=self.peak if length else 0.0)
        yield Done(round(length * RATE), value=reading)


def judge(speech: Speech, **options: Any) -> list[Event | None]:
    told = HibariOptions(retry_badcase=True, **options)
    return list(judged(Speak(model="hibari", text="x", seed=5), told, speech.say))


def test_a_bad_reading_is_made_anew_with_the_seed_of_its_attempt_until_one_is_good() -> None:
    speech = Speech([7.0, 6.5, 1.2, 1.0])
    *_, ended = events = judge(speech)
    assert ended == Done(round(1.2 * RATE))
    assert [len(event.pcm) // 4 for event in events if isinstance(event, Audio)] == [round(1.2 * RATE)]
    assert speech.seeds == [5, derive_seed(5, 0, 1), derive_seed(5, 0, 2)]


def test_where_all_are_bad_the_shortest_is_sent_and_called_bad() -> None:
    speech = Speech([9.0, 7.0, 8.0])
    assert judge(speech, retry_badcase_max_times=2)[-1] == Done(7 * RATE, findings=("runaway",))
    assert len(speech.seeds) == 3


def test_nothing_of_a_reading_is_sent_before_it_is_judged() -> None:
    events = judge(Speech([7.0, 1.0]))
    assert events[:4] == [None] * 4
    assert None not in events[4:]


@pytest.mark.parametrize(("seconds", "peak"), [(0.0, 0.5), (1.0, 0.0), (1.0, 0.0005)])
def test_what_cannot_be_heard_is_bad_too(seconds: float, peak: float) -> None:
    speech = Speech([seconds] * 4, peak)
    ended = judge(speech)[-1]
    assert isinstance(ended, Done)
    assert ended.findings == ("silent",)
    assert len(speech.seeds) == 4


def test_no_retries_are_one_attempt_and_a_finding() -> None:
    speech = Speech([7.0])
    assert judge(speech, retry_badcase_max_times=0)[-1] == Done(7 * RATE, findings=("runaway",))


def test_a_good_reading_has_the_same_bytes_whether_or_not_it_is_judged(engine: Engine) -> None:
    held = run(engine, retry_badcase=True)
    assert held == run(engine)
    assert done(held).findings == ()


def test_a_strong_lengthening_exceeds_a_low_threshold_and_each_attempt_has_its_seed(engine: Engine) -> None:
    bad = run(engine, retry_badcase=True, retry_badcase_ratio_threshold=1.5, retry_badcase_max_times=2, **SLOW)
    assert done(bad).findings == ("runaway",)
    again = run(engine, retry_badcase=True, retry_badcase_ratio_threshold=1.5, retry_badcase_max_times=2, **SLOW)
    assert pcm(again) == pcm(bad)
    fine = run(engine, retry_badcase=True, retry_badcase_ratio_threshold=4.0, **SLOW)
    assert done(fine).findings == ()
    slow = run(
        engine,
        delivery=msgspec.structs.replace(ANGRY, speed=0.5),
        retry_badcase=True,
        retry_badcase_ratio_threshold=1.5,
    )
    assert done(slow).findings == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry_badcase_max_times": 11},
        {"retry_badcase_max_times": -1},
        {"retry_badcase_ratio_threshold": 0},
        {"normalize": "yes"},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, HibariOptions)


# Reports.


def test_verbose_tells_what_the_stages_did_and_changes_no_sample(engine: Engine) -> None:
    told, quiet = run(engine, verbose=True), run(engine)
    assert pcm(told) == pcm(quiet)
    assert done(quiet).value is None
    report = done(told).value
    assert report["emotion"] == {"angry": 0.8}
    assert report["attempts"] == 1
    assert report["phonemes"] > 40
    assert report["seconds"] == pytest.approx(done(told).samples / RATE, abs=1e-3)
    assert report["predicted_seconds"] > report["seconds"]  # angry is quick
    assert 80 < report["f0_hz"] < 400


def test_the_attempts_are_told(engine: Engine) -> None:
    options = {"retry_badcase": True, "retry_badcase_ratio_threshold": 0.1, "retry_badcase_max_times": 2}
    assert done(run(engine, verbose=True, **options)).value["attempts"] == 3


@pytest.fixture
def _told(server: Server) -> Iterator[None]:
    voice = server.home / "voices" / "told.yaml"
    voice.write_text("models: {hibari: {verbose: true}}\n")
    yield
    voice.unlink()


@pytest.mark.usefixtures("_told")
def test_the_log_has_a_line_for_each_segment_with_the_generations_id(server: Server) -> None:
    with configured(server, debug_mode=True):
        told, quiet, last = (
            server.speak(f"{TEXT} And then it rained.", name, seed=1).headers["x-generation-id"]
            for name in ("told", "skylark", "told")
        )
    # What came before the last line is there then.
    wait_until(lambda: len(lines(server, last)) == 2)
    first, second = lines(server, told)
    assert first["phonemes"] > second["phonemes"] > 0
    assert lines(server, quiet) == []


def lines(server: Server, generation: str) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in every if line.get("event") == "segment" and line["generation_id"] == generation]


# Words for what is written.


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("john.smith@example.com", "john dot smith at example dot com"),
        (
            "See https://www.example.com/a-b?x=1.",
            "See W W W dot example dot com slash a dash b question mark x equals 1.",
        ),
        ("example.org, e.g. this", "example dot org, e.g. this"),
        ("Call (555) 123-4567.", "Call 5 5 5, 1 2 3, 4 5 6 7."),
        ("+44 20 7946 0958", "plus 4 4, 2 0, 7 9 4 6, 0 9 5 8"),
        ("978-3-16-148410-0", "9 7 8, 3, 1 6, 1 4 8 4 1 0, 0"),
        ("05.03.2024", "2024-03-05"),
        ("45.03.2024", "45 dot 0 3 dot 2024"),
        ("2024-03-05", "2024-03-05"),
        ("at 10.30pm", "at 10:30 pm"),
        ("20\u20ac and R$ 50, or 5 CHF", "\u20ac20 and 50 reais, or 5 Swiss francs"),
        ("2 1/2 or 2\u00be cups", "2 and 1/2 or 2 and 3/4 cups"),
        ("5'11\"", "5 feet 11"),
        ("3 m\u00b2 at 3 m/s", "3 square meters at 3 meters per second"),
        ("192.168.0.1", "192 dot 168 dot 0 dot 1"),
        ("v1.2, Node.js", "version 1.2, Node dot js"),
        ("Ludwig XIV, and part II", "Ludwig 14, and part 2"),
        ("I, VI and XI", "I, 6 and 11"),
        ("min. 5, p. 7, ca. 1900", "minimum 5, page 7, circa 1900"),
        ("agent 007", "agent 0 0 7"),
        ("<b>bold</b> C#", "bold C sharp"),
        ("Wow \U0001f642", "Wow (slightly smiling face)"),
        (
            "Nothing of the kind; it's 3.14, 1,250, 7:30 or 1990s.",
            "Nothing of the kind; it's 3.14, 1,250, 7:30 or 1990s.",
        ),
    ],
)
def test_what_normalize_puts_into_words(written: str, said: str) -> None:
    assert plain(written) == said


@pytest.mark.parametrize("text", ["1" * 250, "1.1." * 60, "a@" * 120, "<b" * 120, "+1 " * 80, "1-" * 120, "/" * 250])
def test_normalize_puts_anything_into_words(text: str) -> None:
    assert plain(text)


@pytest.mark.parametrize(
    "text", ["the VIP lounge", "size XXL", "World War II's end", "the XIXth century", "the VX agent", "a VI"]
)
def test_letters_that_only_look_like_roman_numbers_stay(text: str) -> None:
    assert plain(text) == text.replace("a VI", "a 6")


def test_normalize_changes_what_is_said_and_not_the_words_that_are_marked(engine: Engine) -> None:
    text = "Write to me@example.com, please."
    said, left = run(engine, text, normalize=True), run(engine, text)
    assert done(said).samples > 1.05 * done(left).samples
    marked = [word.text for event in said if isinstance(event, Marks) for word in event.words]
    assert " ".join(marked) == text
    assert run(engine, TEXT, normalize=True) == run(engine, TEXT)


# Noise behind a recording.


def with_noise(samples: np.ndarray, decibels: float) -> np.ndarray:
    """White noise so far below the samples' power."""
    noise = np.random.default_rng(0).standard_normal(len(samples))
    noise *= np.sqrt(np.mean(samples**2)) / noise.std() * 10 ** (-decibels / 20)
    return (samples + noise).astype(np.float32)


def noise_ratio(clean: np.ndarray, heard: np.ndarray) -> float:
    """In dB."""
    return float(10 * np.log10(np.sum(clean**2) / np.sum((heard - clean) ** 2)))


@pytest.mark.parametrize("name", ["slt", "rms", "awb"])
def test_noise_is_taken_out_and_speech_left(name: str) -> None:
    clean, rate = decode(recording(name).file, "flac")
    assert noise_ratio(clean, denoised(with_noise(clean, 10), rate)) > 15
    assert noise_ratio(clean, denoised(clean, rate)) > 30


@pytest.mark.parametrize("count", [0, 1, 500, 1000])
def test_any_recording_can_be_denoised(count: int) -> None:
    assert len(denoised(np.zeros(count, np.float32), 16_000)) == count


def kept(folder: Path, samples: np.ndarray, rate: int, transcript: str) -> Reference:
    data = wav(samples, rate)
    path = folder / f"{hashlib.sha256(data).hexdigest()}.wav"
    path.write_bytes(data)
    return Reference(path=str(path), sha256=path.stem, transcript=transcript)


def cloned(speaker: Speaker, match: Match) -> np.ndarray:
    """Its mel cepstra, without the level."""
    events = list(speak(speaker, Speak(model="hibari", text=TEXT, seed=3), match))
    samples = np.frombuffer(pcm(events), "<f4")
    return cepstra(analyse(samples, RATE).envelopes, 20)[:, 1:].mean(axis=0)


@pytest.mark.parametrize("name", ["slt", "rms"])
def test_a_clone_of_a_denoised_recording_is_nearer_to_the_clean_ones(name: str, tmp_path: Path) -> None:
    speaker, cloning, spoken = Speaker("heart", 1), Cloning(tmp_path / "matches", "one"), recording(name)
    samples, rate = decode(spoken.file, "flac")
    clean = kept(tmp_path, samples, rate, spoken.transcript)
    noisy = kept(tmp_path, with_noise(samples, 10), rate, spoken.transcript)
    wanted = cloned(speaker, cloning.match(speaker, clean))
    left, taken = (
        float(np.linalg.norm(cloned(speaker, cloning.match(speaker, noisy, is_noisy=is_noisy)) - wanted))
        for is_noisy in (False, True)
    )
    assert taken < 0.75 * left
