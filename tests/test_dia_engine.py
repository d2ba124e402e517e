"""The engine between its slots and its listeners: what is sent, made anew, refused and left behind."""

from __future__ import annotations

import hashlib
import io
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError
from numpy.typing import NDArray

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DiaFeatureExtractor, DiaProcessor, DiaTokenizer  # noqa: E402

from dia_server.models.dia import guard, windows  # noqa: E402
from dia_server.models.dia.codec import BATCH_FRAMES, Codec, Decoding, load_codec  # noqa: E402
from dia_server.models.dia.delay import Codes, frames_of  # noqa: E402
from dia_server.models.dia.engine import MOST_SLICES_ON_GPU, DiaEngine  # noqa: E402
from dia_server.models.dia.prompts import Prompts  # noqa: E402
from dia_server.models.dia.reading import carry_of, lead_of, tagged  # noqa: E402
from dia_server.models.recording import BadRecording  # noqa: E402
from dia_server.tasks import Audio, Done, Ending, Failed, Reference, Speak  # noqa: E402
from dia_speech import random_codes, reading, runtime_of, spoken  # noqa: E402
from tiny_dia import tiny_codec, tiny_model  # noqa: E402

HOP = 512
RATE = 44_100
SLOTS = 4
TEXT = "Hello there, my dear friend."

Sound = NDArray[np.float32]


class Heard(NamedTuple):
    """What came of a task: its samples as they were sent, and how it ended."""

    pieces: list[Sound]
    ending: Ending

    @property
    def sound(self) -> Sound:
        return np.concatenate([*self.pieces, np.zeros(0, np.float32)])


class Stage:
    """An engine with its parts at hand."""

    def __init__(self, model: Path, codec: Codec, folder: Path, slots: int = SLOTS) -> None:
        self.runtime = runtime_of(model, slots)
        self.codec = codec
        self.prompts = Prompts(codec, folder, "tiny", 5.0)
        self.engine = DiaEngine(self.runtime, codec, self.prompts, "tiny")
        self.attempts: list[int] = []
        start = self.runtime.start

        def noted(slot: int, what: Any, attempt: int = 0) -> Any:
            self.attempts.append(attempt)
            return start(slot, what, attempt)

        self.runtime.start = noted  # type: ignore[method-assign]

    def hear(self, *tasks: Speak) -> list[Heard]:
        """All of them at once."""
        for number, task in enumerate(tasks):
            self.engine.admit(number, task)
        found: dict[int, Heard] = {}
        pieces: dict[int, list[Sound]] = {number: [] for number in range(len(tasks))}
        while len(found) < len(tasks):
            for number, event in self.engine.step():
                if isinstance(event, Audio):
                    assert event.first_sample == sum(map(len, pieces[number]))
                    pieces[number].append(np.frombuffer(event.pcm, "<f4"))
                else:
                    assert isinstance(event, Done | Failed)
                    found[number] = Heard(pieces[number], event)
        return [found[number] for number in range(len(tasks))]

    def codes(self, task: Speak, attempt: int, lead: str = "", prompt: Codes | None = None) -> Codes:
        """What the runtime says for it, asked directly."""
        text = tagged(f"{lead} [S1] {task.text}")
        most = round(guard.most_seconds(task.text) * RATE / HOP)
        rows = spoken(self.runtime, reading(text, prompt, most, task.seed), slot=1, attempt=attempt)
        return frames_of(rows[:-1], self.runtime.architecture)

    def sound(self, codes: Codes) -> Sound:
        """Decoded window by window, each by itself."""
        found = []
        for window in windows.ready(0, len(codes), whole=True):
            (samples,) = self.codec.decode([codes[window.left : window.right]])
            found.append(samples[(window.start - window.left) * HOP : (window.end - window.left) * HOP])
        return np.concatenate([*found, np.zeros(0, np.float32)])

    def findings(self, task: Speak, codes: Codes) -> tuple[str, ...]:
        seconds = len(codes) * HOP / RATE
        return ("truncated",) if seconds < guard.TRUNCATED * len(task.text) / guard.CHARACTERS_PER_SECOND else ()


def speak(seed: int, text: str = TEXT, *, judge: str = "start", **fields: Any) -> Speak:
    return Speak(model="dia", text=text, seed=seed, options={"judge": judge}, **fields)


@pytest.fixture(scope="module")
def codec(tiny_dia: tuple[Path, Path]) -> Codec:
    return load_codec(tiny_dia[1], torch.device("cpu"))


@pytest.fixture(scope="module")
def whole_stage(tiny_dia: tuple[Path, Path], codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tiny_dia[0], codec, tmp_path_factory.mktemp("codes"))


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    whole_stage.attempts.clear()
    return whole_stage


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends by itself."""
    folder = tmp_path_factory.mktemp("endless")
    model = tiny_model()
    with torch.no_grad():
        model.logits_dense.weight[1024] = 0
    model.save_pretrained(folder)
    return folder


# What is sent.


def test_pieces_are_the_whole(stage: Stage) -> None:
    """Bit by bit the windows' samples, and as near as their context allows those of all frames at once."""
    heard = stage.hear(speak(5), speak(6), speak(7, "Hi."))
    assert max(len(each.pieces) for each in heard) > 4
    for task, each in zip((speak(5), speak(6), speak(7, "Hi.")), heard, strict=True):
        codes = stage.codes(task, attempt=0)
        assert np.array_equal(each.sound, stage.sound(codes))
        (at_once,) = stage.codec.decode([codes])
        assert np.abs(each.sound - at_once).max() < 1e-4 * np.abs(at_once).max()
        assert isinstance(each.ending, Done)
        assert each.ending.samples == len(codes) * HOP


def test_nobody_hears_who_else_speaks(stage: Stage) -> None:
    (alone,) = stage.hear(speak(5))
    among_others = stage.hear(speak(8, "Well, well."), speak(9), speak(5), speak(10, "x" * 80))[2]
    assert np.array_equal(alone.sound, among_others.sound)
    assert alone.ending == among_others.ending


def test_a_window_has_the_same_samples_whichever_others_are_decoded_with_it(codec: Codec) -> None:
    """Convolutions on the processor take another path for several at once."""
    many = [random_codes(length, seed) for seed, length in enumerate([15, 15, 26, 15, 84, 84, 15])]
    together = codec.decode(many)
    for codes, samples in zip(many, together, strict=True):
        assert np.array_equal(codec.decode([codes])[0], samples)


def test_windows_of_one_length_are_decoded_in_one_shape_on_a_gpu(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_codec()
    several, shapes = Codec(model, torch.device("cpu")), set()
    monkeypatch.setattr(several, "_batch_frames", BATCH_FRAMES)
    decode = model.decode

    def noted(audio_codes: Any) -> Any:
        shapes.add(tuple(audio_codes.shape))
        return decode(audio_codes=audio_codes)

    monkeypatch.setattr(model, "decode", noted)
    many = [random_codes(length, seed) for seed, length in enumerate([14] * 9 + [24, 84, 84])]
    for codes, samples in zip(many, several.decode(many), strict=True):
        assert np.allclose(codec.decode([codes])[0], samples, atol=1e-5)
    assert shapes == {(8, 9, 14), (4, 9, 24), (1, 9, 84)}


@given(
    total=st.integers(0, 400),
    steps=st.lists(st.integers(1, 90), max_size=40),
)
def test_the_grid_is_the_same_in_whichever_steps_frames_come(total: int, steps: list[int]) -> None:
    found, heard, known = [], 0, 0
    for step in [*steps, total]:
        known = min(total, known + step)
        for window in windows.ready(heard, known, whole=False):
            assert window.right <= known
            found.append(window)
            heard = window.end
    found += windows.ready(heard, total, whole=True)
    assert found == list(windows.ready(0, total, whole=True))
    assert [window.start for window in found] == [0, *(window.end for window in found)][: len(found)]
    assert (found[-1].end if found else 0) == total
    for window in found:
        assert window.left == max(0, window.start - windows.CONTEXT)
        assert window.right == min(total, window.end + windows.CONTEXT)


# What is left behind.


def steps_until(stage: Stage, wanted: type[Audio | Done]) -> None:
    while not any(isinstance(event, wanted) for _, event in list(stage.engine.step())):
        pass


def test_a_cancelled_task_leaves_at_once(stage: Stage) -> None:
    for number in range(SLOTS):
        stage.engine.admit(number, speak(number, "x" * 200))
    steps_until(stage, Audio)
    spoken_of = int(stage.runtime.slots.active.sum())
    stage.engine.cancel(2)
    stage.engine.cancel(2)
    assert int(stage.runtime.slots.active.sum()) == spoken_of - 1
    stage.engine.admit(9, speak(5))
    seen = {number for _ in range(30) for number, _ in stage.engine.step()}
    assert 2 not in seen
    stage.engine.close()
    assert list(stage.engine.step()) == []
    assert np.array_equal(stage.hear(speak(5))[0].sound, stage.sound(stage.codes(speak(5), 0)))


def bad_tasks(folder: Path) -> list[tuple[Speak, str]]:
    """Tasks that can't be spoken, with a word of what is said of each."""
    (folder / "noise.wav").write_bytes(b"no sound at all")
    digest = hashlib.sha256(b"no sound at all").hexdigest()
    unreadable = Reference(path=str(folder / "noise.wav"), sha256=digest, transcript="Hm.")
    missing = Reference(path=str(folder / "none.wav"), sha256="0" * 64, transcript="Hm.")
    mute = Reference(path=str(folder / "noise.wav"), sha256=digest)
    return [
        (speak(1, "long " * 300), "1024"),
        (speak(1, "a\x01b"), "control"),
        (speak(1, "a\x00b"), "control"),
        (speak(1, references={"S1": mute}), "transcript"),
        (speak(1, references={"S1": unreadable}), "wav"),
        (speak(1, references={"S1": missing}), "read"),
    ]


def test_what_cannot_be_spoken_is_refused_in_words(stage: Stage, tmp_path: Path) -> None:
    for task, word in bad_tasks(tmp_path):
        (heard,) = stage.hear(task)
        assert isinstance(heard.ending, Failed)
        assert heard.ending.is_input_wrong
        assert word in heard.ending.message
        assert not heard.pieces


def test_a_task_that_is_not_taken_takes_no_slot(stage: Stage) -> None:
    for _ in range(SLOTS):
        with pytest.raises(ValidationError):
            stage.engine.admit(0, speak(1, judge="nobody"))
    assert all(isinstance(heard.ending, Done) for heard in stage.hear(*[speak(5, "Hi.")] * SLOTS))


def test_two_hundred_mixed_requests_leave_nothing(stage: Stage, tmp_path: Path) -> None:
    dice = random.Random(1)
    bad = [task for task, _ in bad_tasks(tmp_path)]
    waiting = []
    for number in range(200):
        text = "".join(dice.choices("abcdef ,.", k=dice.randrange(1, 12)))
        task = speak(number, f"x{text}", judge=dice.choice(["start", "start", "segment"]))
        waiting.append((number, dice.choice(bad) if dice.random() < 0.2 else task))
    open_tasks: set[int] = set()
    endings: dict[int, Ending | None] = {}
    while waiting or open_tasks:
        while waiting and len(open_tasks) < SLOTS:
            number, task = waiting.pop()
            stage.engine.admit(number, task)
            open_tasks.add(number)
        for number, event in stage.engine.step():
            if isinstance(event, Done | Failed):
                endings[number] = event
                open_tasks.remove(number)
        if open_tasks and dice.random() < 0.06:
            number = dice.choice(sorted(open_tasks))
            stage.engine.cancel(number)
            endings[number] = None
            open_tasks.remove(number)
    kinds = [type(ending) for ending in endings.values()]
    assert len(endings) == 200
    assert min(kinds.count(kind) for kind in (Done, Failed, type(None))) >= 10
    assert list(stage.engine.step()) == []
    assert not stage.runtime.slots.active.any()
    assert stage.runtime.step() is None
    assert len({heard.sound.tobytes() for heard in stage.hear(*[speak(5)] * SLOTS)}) == 1


# What a GPU does beside the steps.


class Late:
    """A decoding that is done only when it was asked for so often."""

    def __init__(self, decoding: Decoding, times: int) -> None:
        self._decoding = decoding
        self._left = times

    @property
    def is_done(self) -> bool:
        self._left -= 1
        return self._left < 0

    def samples(self) -> list[Sound]:
        return self._decoding.samples()


@pytest.mark.parametrize("judge", ["start", "segment"])
def test_sound_that_comes_late_is_the_same(stage: Stage, monkeypatch: pytest.MonkeyPatch, judge: str) -> None:
    """Even what is made anew doesn't depend on how long DAC takes."""
    tasks = [speak(seed, "x" * length, judge=judge) for seed, length in ((5, 20), (1, 90), (3, 90), (6, 4))]
    at_once, attempts = stage.hear(*tasks), sorted(stage.attempts)
    stage.attempts.clear()
    dice, begin = random.Random(1), stage.codec.begin
    monkeypatch.setattr(stage.codec, "begin", lambda codes: Late(begin(codes), dice.randrange(60)))
    late = stage.hear(*tasks)
    assert [(each.sound.tobytes(), each.ending) for each in late] == [
        (each.sound.tobytes(), each.ending) for each in at_once
    ]
    assert sorted(stage.attempts) == attempts


def test_whoever_waits_is_prepared_in_turn_and_says_the_same(
    tiny_dia: tuple[Path, Path], codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tiny_dia[0], codec, tmp_path)
    tasks = [speak(seed) for seed in range(SLOTS)]
    sparing = stage.hear(*tasks)
    monkeypatch.setattr(stage.engine, "_most_slices", MOST_SLICES_ON_GPU)
    assert [each.sound.tobytes() for each in stage.hear(*tasks)] == [each.sound.tobytes() for each in sparing]


# What is found wrong.


@pytest.mark.parametrize("judge", ["start", "segment"])
def test_a_truncated_segment_is_made_anew_unless_it_has_been_sent(stage: Stage, judge: str) -> None:
    made_anew = 0
    for seed in range(5):
        task = speak(seed, "x" * 90, judge=judge)
        (heard,) = stage.hear(task)
        attempts = list(stage.attempts)
        stage.attempts.clear()
        assert attempts == list(range(len(attempts)))
        assert len(attempts) <= guard.ATTEMPTS
        tries = [stage.codes(task, attempt) for attempt in attempts]
        found = [stage.findings(task, codes) for codes in tries]
        stage.attempts.clear()
        assert all(found[:-1]), "a good one is not made anew"
        if judge == "start":
            assert all(len(codes) < 4 + windows.CONTEXT for codes in tries[:-1]), "nor one that was heard"
        assert isinstance(heard.ending, Done)
        assert heard.ending.findings == found[-1]
        assert not found[-1] or heard.pieces or len(attempts) == guard.ATTEMPTS
        if judge == "segment" and found[-1]:
            assert len(attempts) == guard.ATTEMPTS
        assert np.array_equal(heard.sound, stage.sound(tries[-1]))
        made_anew += len(attempts) > 1
    assert made_anew if judge == "segment" else True


def test_a_segment_that_is_judged_whole_is_sent_at_its_end(stage: Stage) -> None:
    stage.engine.admit(0, speak(5, judge="segment"))
    events: list[Any] = []
    steps = 0
    while not events:
        steps += 1
        events = [event for _, event in stage.engine.step()]
    assert isinstance(events[-1], Done)
    pcm = b"".join(event.pcm for event in events[:-1])
    assert pcm == stage.hear(speak(5))[0].sound.tobytes()


def test_a_segment_that_is_judged_whole_is_decoded_as_it_comes(
    endless: Path, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at its end would keep everybody else waiting."""
    begin, sizes = codec.begin, []

    def counted(windows: Sequence[Codes]) -> Decoding:
        sizes.append(len(windows))
        return begin(windows)

    monkeypatch.setattr(codec, "begin", counted)
    Stage(endless, codec, tmp_path, slots=1).hear(speak(1, "a", judge="segment"))
    assert max(sizes) <= 2 < sum(sizes)


@pytest.mark.parametrize(("judge", "attempts"), [("start", 1), ("segment", 3)])
def test_who_does_not_end_is_ended(endless: Path, codec: Codec, tmp_path: Path, judge: str, attempts: int) -> None:
    stage = Stage(endless, codec, tmp_path, slots=1)
    (heard,) = stage.hear(speak(1, "a", judge=judge))
    assert isinstance(heard.ending, Done)
    assert heard.ending.findings == ("runaway",)
    assert heard.ending.samples == round(guard.most_seconds("a") * RATE / HOP) * HOP
    assert len(stage.attempts) == attempts


@pytest.mark.parametrize(("judge", "attempts"), [("start", 1), ("segment", 3)])
def test_silence_is_found(tiny_dia: tuple[Path, Path], tmp_path: Path, judge: str, attempts: int) -> None:
    mute = tiny_codec()
    with torch.no_grad():
        for weights in mute.decoder.conv2.parameters():
            weights.zero_()
    stage = Stage(tiny_dia[0], Codec(mute, torch.device("cpu")), tmp_path, slots=1)
    (heard,) = stage.hear(speak(5, judge=judge))
    assert isinstance(heard.ending, Done)
    assert "silent" in heard.ending.findings
    assert len(stage.attempts) == attempts


# What comes before.


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
