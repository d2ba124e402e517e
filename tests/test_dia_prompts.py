"""What comes before a segment of Dia's: recordings as codes, the segment that it goes on from, and whose turn it is."""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest

from conftest import needs_dia

pytestmark = needs_dia
pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DiaFeatureExtractor, DiaProcessor, DiaTokenizer  # noqa: E402

from dia_server.models.dia import guard  # noqa: E402
from dia_server.models.dia.codec import Codec  # noqa: E402
from dia_server.models.dia.delay import frames_of  # noqa: E402
from dia_server.models.dia.prompts import Prompts  # noqa: E402
from dia_server.models.dia.reading import carry_of, lead_of, tagged  # noqa: E402
from dia_server.models.recording import BadRecording  # noqa: E402
from dia_server.tasks import Done, Reference  # noqa: E402
from dia_speech import random_codes, reading, spoken  # noqa: E402
from dia_stage import HOP, RATE, Sound, Stage, speak  # noqa: E402
from tiny_dia import tiny_codec  # noqa: E402


def recorded(folder: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, seed: int = 0) -> Reference:
    samples = np.random.default_rng(seed).normal(0, 3_000, (round(seconds * rate), channels)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, rate, 0, "NONE", ""))
        writer.writeframes(samples.tobytes())
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    path = folder / f"{digest}.wav"
    path.write_bytes(file.getvalue())
    return Reference(path=str(path), sha256=digest, transcript="What I said.")


def samples_of(reference: Reference) -> Sound:
    with wave.open(reference.path) as file:
        return np.frombuffer(file.readframes(-1), "<i2").astype(np.float32) / np.float32(32_768)


@pytest.fixture
def prompts(codec: Codec, tmp_path: Path) -> Prompts:
    return Prompts(codec, tmp_path / "codes", "tiny", 5.0)


def test_a_recording_has_the_codes_that_transformers_gives_it(prompts: Prompts, tmp_path: Path) -> None:
    reference = recorded(tmp_path, 0.5)
    processor = DiaProcessor(DiaFeatureExtractor(sampling_rate=RATE, hop_length=HOP), DiaTokenizer(), tiny_codec())
    inputs = processor(
        text=["x"],
        audio=[samples_of(reference)],
        padding="longest",
        max_length=None,
        return_tensors="pt",
        sampling_rate=RATE,
    )
    rows = inputs["decoder_input_ids"][0].numpy()
    delays = (0, *range(8, 16))
    theirs = np.stack([rows[1 + delay : len(rows) - 15 + delay, c] for c, delay in enumerate(delays)], axis=1)
    assert np.array_equal(prompts.codes(reference), theirs)


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (44_100, 2), (16_000, 2)])
def test_a_recording_of_another_kind_is_heard_too(prompts: Prompts, tmp_path: Path, rate: int, channels: int) -> None:
    codes = prompts.codes(recorded(tmp_path, 0.5, rate, channels))
    assert codes.shape == (-(-RATE // 2 // HOP), 9)


def test_a_recording_is_encoded_once(codec: Codec, tmp_path: Path) -> None:
    reference = recorded(tmp_path)
    folder = tmp_path / "codes"
    first = Prompts(codec, folder, "tiny", 5.0).codes(reference)
    (kept,) = folder.iterdir()
    # Who had to encode it again would fail.
    Path(reference.path).unlink()
    assert np.array_equal(Prompts(codec, folder, "tiny", 5.0).codes(reference), first)
    with pytest.raises(BadRecording):
        Prompts(codec, folder, "another codec", 5.0).codes(reference)
    kept.unlink()
    with pytest.raises(BadRecording):
        Prompts(codec, folder, "tiny", 5.0).codes(reference)


@pytest.mark.parametrize("length", [0, 40, 200])
def test_damaged_codes_are_made_anew(codec: Codec, tmp_path: Path, length: int) -> None:
    reference = recorded(tmp_path)
    first = Prompts(codec, tmp_path / "codes", "tiny", 5.0).codes(reference)
    (kept,) = (tmp_path / "codes").iterdir()
    good = kept.read_bytes()
    kept.write_bytes(good[:length])
    assert np.array_equal(Prompts(codec, tmp_path / "codes", "tiny", 5.0).codes(reference), first)
    assert kept.read_bytes() == good


def test_recordings_that_serve_nobody_are_refused_in_words(prompts: Prompts, tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="cut it"):
        prompts.codes(recorded(tmp_path, 5.5))
    with pytest.raises(BadRecording, match="no sound"):
        prompts.codes(recorded(tmp_path, 0))


def test_a_segment_goes_on_from_the_one_before(stage: Stage) -> None:
    first, second = speak(5, "And then."), speak(6, "It rained.")
    (before,) = stage.hear(first)
    assert isinstance(before.ending, Done)
    codes = stage.codes(first, attempt=0)
    (after,) = stage.hear(speak(6, "It rained.", carry=before.ending.carry, is_chained=True))
    expected = stage.codes(second, attempt=0, lead="[S1] And then.", prompt=codes)
    assert np.array_equal(after.sound, stage.sound(expected))
    assert not np.array_equal(after.sound, stage.hear(second)[0].sound)


def test_a_segment_of_which_nothing_was_spoken_leaves_nothing() -> None:
    assert carry_of(speak(5), random_codes(0)) == b""
    assert carry_of(speak(5), random_codes(1))


def test_prompts_come_in_the_order_in_which_their_speakers_do(stage: Stage, tmp_path: Path) -> None:
    one, two = recorded(tmp_path, 0.3, seed=1), recorded(tmp_path, 0.2, seed=2)
    two = Reference(path=two.path, sha256=two.sha256, transcript="And I.")
    task = speak(5, "[S2] Yes. [S1] No.", references={"S1": one, "S2": two})
    (heard,) = stage.hear(task)
    codes = np.concatenate([stage.prompts.codes(two), stage.prompts.codes(one)])
    words = speak(5, "Yes. No.")
    text = "[S1] And I. [S2] What I said. [S1] Yes. [S2] No."
    rows = spoken(stage.runtime, reading(text, codes, round(guard.most_seconds(words.text) * RATE / HOP), 5))
    assert np.array_equal(heard.sound, stage.sound(frames_of(rows[:-1], stage.runtime.architecture)))


@pytest.mark.parametrize("transcript", ["[S1] I said.", "[s2] I said.", " I said. ", "[S1] I [S1] said."])
def test_a_transcript_is_its_speakers_whichever_tag_it_has(stage: Stage, tmp_path: Path, transcript: str) -> None:
    reference = msgspec.structs.replace(recorded(tmp_path, 0.3), transcript=transcript)
    assert lead_of(speak(5, "Yes.", speaker="S2", references={"S2": reference}), stage.prompts).text == "[S2] I said."


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Hi.", "[S1] Hi."),
        ("[S2] Hi.", "[S1] Hi."),
        ("[S1] Said before. [S1] Goes on.", "[S1] Said before. Goes on."),
        ("[S2] One. [S1] Two. [S2] Three.", "[S1] One. [S2] Two. [S1] Three."),
        ("[S1] A. [S2] B. [S2] [S1] C. [S2] D.", "[S1] A. [S2] B. [S1] C. [S2] D."),
    ],
)
def test_tags_begin_with_the_first_and_take_turns(text: str, read: str) -> None:
    assert tagged(text) == read
