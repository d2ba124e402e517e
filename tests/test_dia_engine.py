"""Dia's engine between its slots and its listeners: what is sent, refused and left behind."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dia_server.models.dia import windows  # noqa: E402
from dia_server.models.dia.codec import BATCH_FRAMES, Codec, Decoding, load_codec  # noqa: E402
from dia_server.models.dia.dac import Dac  # noqa: E402
from dia_server.models.dia.engine import MOST_SLICES_ON_GPU  # noqa: E402
from dia_server.tasks import Audio, Done, Ending, Failed, Reference, Speak  # noqa: E402
from dia_speech import random_codes  # noqa: E402
from dia_stage import HOP, SLOTS, Sound, Stage, speak  # noqa: E402


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


def test_windows_of_one_length_are_decoded_in_one_shape_on_a_gpu(
    tiny_dia: tuple[Path, Path], codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [random_codes(length, seed) for seed, length in enumerate([14] * 9 + [24, 84, 84])]
    alone = [codec.decode([codes])[0] for codes in many]
    several, shapes = load_codec(tiny_dia[1], torch.device("cpu")), set()
    monkeypatch.setattr(several, "_batch_frames", BATCH_FRAMES)
    decode = Dac.decode

    def noted(dac: Dac, codes: Any) -> Any:
        shapes.add(tuple(codes.shape))
        return decode(dac, codes)

    monkeypatch.setattr(Dac, "decode", noted)
    for expected, samples in zip(alone, several.decode(many), strict=True):
        assert np.allclose(expected, samples, atol=1e-5)
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


def test_many_mixed_requests_leave_nothing(stage: Stage, tmp_path: Path) -> None:
    dice = random.Random(1)
    bad = [task for task, _ in bad_tasks(tmp_path)]
    waiting = []
    for number in range(60):
        text = "".join(dice.choices("abcdef ,.", k=dice.randrange(1, 3)))
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
        if open_tasks and dice.random() < 0.1:
            number = dice.choice(sorted(open_tasks))
            stage.engine.cancel(number)
            endings[number] = None
            open_tasks.remove(number)
    kinds = [type(ending) for ending in endings.values()]
    assert len(endings) == 60
    assert min(kinds.count(kind) for kind in (Done, Failed, type(None))) >= 5
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
