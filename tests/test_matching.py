"""What cloning is made of: F0, envelopes, alignment, matches, and their cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soxr

from dia_server.audio.wav import write_wav
from dia_server.models.hibari.cloning import Cloning, imitate, rendered
from dia_server.models.hibari.engine import Speaker, speak
from dia_server.models.matching import listening
from dia_server.models.matching.alignment import align, mean_rank, nearest
from dia_server.models.matching.analysis import SAMPLE_RATE, Frames, analyse
from dia_server.models.matching.cache import IN_MEMORY, Matches
from dia_server.models.matching.matcher import Match, Melody, learn
from dia_server.models.matching.pitch import track
from dia_server.models.recording import BadRecording
from dia_server.tasks import Audio, Delivery, Marks, Reference, Speak
from dia_server.voices.prompts import SAMPLE_RATE as PROMPT_RATE
from prompts import recording as recorded

TEXT = "We had planned to leave at noon, but the bread was still in the oven."
NAMES = ("slt", "rms", "awb")


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker("heart", 1)


@pytest.fixture(scope="module")
def targets() -> dict[str, Frames]:
    return {name: analyse(recorded(name).samples, PROMPT_RATE) for name in NAMES}


@pytest.fixture(scope="module")
def matches(speaker: Speaker, targets: dict[str, Frames]) -> dict[str, Match]:
    return {
        name: learn(speaker.rehearse(recorded(name).transcript, 30), target, says_the_same=True)
        for name, target in targets.items()
    }


def samples(speaker: Speaker, match: Match | None = None, **fields: object) -> np.ndarray:
    """What the model says, at 24 kHz."""
    task = Speak(model="hibari", text=TEXT, seed=1, **fields)  # type: ignore[arg-type]
    heard = [event.pcm for event in speak(speaker, task, match) if isinstance(event, Audio)]
    return np.frombuffer(b"".join(heard), "<f4")


def f0_of(sound: np.ndarray) -> float:
    """Median in Hz."""
    f0 = track(sound, SAMPLE_RATE, 300)
    return float(np.median(f0[f0 > 0]))


@pytest.mark.parametrize("f0", [75.0, 120.0, 210.0, 330.0])
def test_f0_of_a_tone_of_many_harmonics(f0: float) -> None:
    phase = 2 * np.pi * f0 * np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = sum(np.cos(k * phase) for k in range(1, int(4000 / f0))) * 0.01
    rest = np.zeros(SAMPLE_RATE // 2)
    found = track(np.concatenate([rest, tone, rest]).astype(np.float32), SAMPLE_RATE, 300)
    assert np.all(found[:35] == 0)
    assert np.all(found[-35:] == 0)
    assert found[50:110] == pytest.approx(f0, rel=0.01)


def test_f0_of_speech_is_the_models_own(speaker: Speaker) -> None:
    (sentence,) = speaker.reader.read(TEXT)
    durations, hidden = speaker.network.durations(sentence.ids, 1.0)
    f0, _ = speaker.network.melody(durations, hidden)
    found = track(samples(speaker), SAMPLE_RATE, 300)
    both = (found > 0) & (f0 > 100)
    assert both.mean() > 0.5
    assert np.median(np.abs(found[both] / f0[both] - 1)) < 0.02


def test_alignment_finds_how_time_was_stretched() -> None:
    steps = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    stretched = np.repeat(np.arange(200), np.random.default_rng(1).integers(1, 3, 200))
    pairs = align(steps, steps[stretched])
    assert np.array_equal(pairs.first, stretched[pairs.second])
    assert np.all(np.diff(pairs.first) >= 0)
    assert np.all(np.diff(pairs.second) >= 0)
    assert (pairs.first[-1], pairs.second[-1]) == (199, len(stretched) - 1)


def test_alignment_with_a_recording_that_was_cut_ends_where_it_ends() -> None:
    steps = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    pairs = align(steps, steps[:120], is_second_cut=True)
    assert (pairs.first[-1], pairs.second[-1]) == (119, 119)
    assert mean_rank(steps, steps[:120], pairs) < 0.01


def test_the_nearest_frames_are_found_from_both_sides() -> None:
    pairs = nearest(np.array([[0.0], [10.0]], np.float32), np.array([[9.0], [1.0], [2.0]], np.float32))
    assert [*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)] == [(0, 1), (1, 0), (1, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_words_that_are_not_the_recordings_are_noticed(
    speaker: Speaker, targets: dict[str, Frames], matches: dict[str, Match], name: str
) -> None:
    assert matches[name].is_aligned
    for other in set(NAMES) - {name}:
        rehearsal = speaker.rehearse(recorded(other).transcript, 30)
        assert not learn(rehearsal, targets[name], says_the_same=True).is_aligned


def test_who_imitates_itself_stays_as_it_is(speaker: Speaker) -> None:
    own = speaker.rehearse(TEXT, 30)
    match = learn(own, own, says_the_same=True)
    assert match.pace == 1
    assert match.depth == pytest.approx(1)
    assert np.abs(match.imitate(own.envelopes) - own.envelopes).mean() < 0.25


def test_spectra_made_of_an_envelope_have_that_envelope(speaker: Speaker) -> None:
    (sentence,) = speaker.reader.read(TEXT)
    durations, hidden = speaker.network.durations(sentence.ids, 1.0)
    f0, energy = speaker.network.melody(durations, hidden)
    spectra = speaker.network.spectra(sentence.ids, durations, f0, energy)
    own = rendered(spectra, f0)
    nothing = np.zeros((8, 24), np.float32), np.zeros((8, 601), np.float32)
    same = Match(*nothing, Melody(5.0, 0.2), Melody(5.0, 0.2), 1.0, is_aligned=False)
    again = rendered(imitate(spectra, f0, f0, same), f0)
    loud = own.is_voiced & (energy > 3)
    difference = (again.envelopes - own.envelopes)[loud][:, 10:250]
    assert abs(difference.mean()) < 0.15
    assert np.abs(difference).mean() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_clone_has_the_pitch_of_the_recording(
    speaker: Speaker, targets: dict[str, Frames], matches: dict[str, Match], name: str
) -> None:
    f0 = targets[name].f0
    assert f0_of(samples(speaker, matches[name])) == pytest.approx(np.median(f0[f0 > 0]), rel=0.08)


def test_delivery_and_the_voices_options_act_on_a_clone(speaker: Speaker, matches: dict[str, Match]) -> None:
    plain = samples(speaker, matches["slt"])
    higher = samples(speaker, matches["slt"], delivery=Delivery(pitch=5.0))
    assert f0_of(higher) / f0_of(plain) == pytest.approx(2 ** (5 / 12), rel=0.05)
    slower = samples(speaker, matches["slt"], options={"prosody": {"duration": 1.3}})
    assert len(slower) / len(plain) == pytest.approx(1.3, rel=0.05)


def test_the_words_of_a_clone_are_where_the_plain_voice_has_them(speaker: Speaker, matches: dict[str, Match]) -> None:
    task = Speak(model="hibari", text=TEXT, seed=1)
    plain, cloned = (
        [event.words for event in speak(speaker, task, match) if isinstance(event, Marks)]
        for match in (None, matches["rms"]._replace(pace=1.0))
    )
    assert [word.text for word in plain[0]] == TEXT.split()
    assert cloned == plain


def test_the_partner_of_a_clone_is_somebody_else(speaker: Speaker, matches: dict[str, Match]) -> None:
    for name, is_man in (("rms", True), ("slt", False)):
        partner = f0_of(samples(speaker, matches[name], is_partner=True))
        assert (partner > 1.4 * f0_of(samples(speaker, matches[name]))) is is_man
        assert (partner < 0.8 * f0_of(samples(speaker, matches[name]))) is not is_man


def test_a_narrow_recording_leaves_the_rest_of_the_band_to_the_model(speaker: Speaker) -> None:
    wide = recorded("rms")
    narrow = soxr.resample(soxr.resample(wide.samples, PROMPT_RATE, 8_000), 8_000, PROMPT_RATE)
    whole = np.rint(narrow * 32767).astype(np.float32) / 32768
    match = learn(speaker.rehearse(wide.transcript, 30), analyse(whole, PROMPT_RATE), says_the_same=True)
    power = np.abs(np.fft.rfft(samples(speaker, match))) ** 2
    hertz = np.fft.rfftfreq(len(samples(speaker, match)), 1 / SAMPLE_RATE)
    above, below = (power[(hertz > low) & (hertz < high)].mean() for low, high in ((5_000, 8_000), (2_000, 3_500)))
    assert above > below * 1e-4


def write(path: Path, sound: np.ndarray) -> Reference:
    with path.open("wb") as file:
        write_wav(file, sound.astype(np.float32), PROMPT_RATE)
    return Reference(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_is_no_recording_of_a_voice_is_refused_in_words(tmp_path: Path) -> None:
    good = write(tmp_path / "good.wav", recorded("slt").samples)
    assert listening.listen(good)[1] is False
    noise = np.random.default_rng(0).standard_normal(PROMPT_RATE) * 0.05
    (tmp_path / "text.wav").write_bytes(b"no sound")
    text = Reference(path=str(tmp_path / "text.wav"), sha256=hashlib.sha256(b"no sound").hexdigest())
    for reference, words in (
        (write(tmp_path / "silent.wav", np.zeros(PROMPT_RATE)), "no voice"),
        (write(tmp_path / "empty.wav", np.zeros(0)), "no voice"),
        (write(tmp_path / "noise.wav", noise), "no voice"),
        (text, "no wav file"),
        (Reference(path=str(tmp_path / "none.wav"), sha256=good.sha256), "No such file"),
        (Reference(path=good.path, sha256="0" * 64), "not the one"),
    ):
        with pytest.raises(BadRecording, match=words):
            listening.listen(reference)


def test_of_a_long_recording_the_start_is_enough(tmp_path: Path, speaker: Speaker) -> None:
    names = ("slt",) * 9
    long = np.concatenate([recorded(name).samples for name in names])
    reference = write(tmp_path / "long.wav", long)
    text = " ".join(recorded(name).transcript for name in names)
    spoken = Reference(path=reference.path, sha256=reference.sha256, transcript=text)
    match = Cloning(tmp_path, "test").match(speaker, spoken)
    assert match.is_aligned
    assert len(match.values) < 80 * 45


def match_of(number: int) -> Match:
    draw = np.random.default_rng(number).standard_normal
    arrays = draw((20, 24)).astype(np.float32), draw((20, 601)).astype(np.float32)
    return Match(*arrays, Melody(5.0, 0.2), Melody(4.6, 0.1), 1.1, is_aligned=True)


def is_same(first: Match, second: Match) -> bool:
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not much of a zip file", None], ids=["empty", "other", "half"])
def test_a_damaged_match_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    folder = tmp_path / "there" / "matches"
    first = Matches(folder).get("a", lambda: match_of(1))
    assert is_same(Matches(folder).get("a", lambda: pytest.fail("it is kept")), first)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage is None else damage)
    assert is_same(Matches(folder).get("a", lambda: match_of(1)), first)
    assert is_same(Matches(folder).get("a", lambda: pytest.fail("it is kept again")), first)


def test_few_matches_stay_in_memory(tmp_path: Path) -> None:
    matches = Matches(tmp_path / "matches")
    made = []

    def get(number: int) -> None:
        matches.get(str(number), lambda: made.append(number) or match_of(number))  # type: ignore[func-returns-value]

    for number in range(IN_MEMORY + 1):
        get(number)
    for file in (tmp_path / "matches").iterdir():
        file.unlink()
    get(1)
    get(0)
    assert made == [*range(IN_MEMORY + 1), 0]
