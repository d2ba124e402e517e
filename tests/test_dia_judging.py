"""What Dia's engine finds wrong with a segment, and which ones are made anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dia_server.models.dia import guard, windows  # noqa: E402
from dia_server.models.dia.codec import Codec, Decoding, load_codec  # noqa: E402
from dia_server.models.dia.delay import Codes  # noqa: E402
from dia_server.tasks import Done  # noqa: E402
from dia_stage import HOP, RATE, Stage, speak  # noqa: E402
from tiny_dia import tiny_codec, tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends by itself."""
    folder = tmp_path_factory.mktemp("endless")
    model = tiny_model()
    with torch.no_grad():
        model.logits_dense.weight[1024] = 0
    model.save_pretrained(folder)
    return folder


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
    mute.save_pretrained(tmp_path / "mute")
    stage = Stage(tiny_dia[0], load_codec(tmp_path / "mute", torch.device("cpu")), tmp_path, slots=1)
    (heard,) = stage.hear(speak(5, judge=judge))
    assert isinstance(heard.ending, Done)
    assert "silent" in heard.ending.findings
    assert len(stage.attempts) == attempts
