"""Which emotion a text tells of: by words, and by a classifier from the hub where the settings name one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dia_server.script.emotions import CALM, classify
from dia_server.script.instructions import VOCABULARY
from dia_server.tasks import EMOTIONS

SENTENCES = yaml.safe_load((Path(__file__).parent / "data" / "feelings.yaml").read_text(encoding="utf-8"))


def strongest(text: str) -> str:
    weights = classify(text)
    return EMOTIONS[weights.index(max(weights))]


def weight(text: str, emotion: str) -> float:
    return classify(text)[EMOTIONS.index(emotion)]


@pytest.mark.parametrize("part", ["seen", "kept"])
def test_the_page_says_how_many_sentences_are_told_rightly(part: str) -> None:
    pairs = [(emotion, sentence) for emotion, all_ in SENTENCES[part].items() for sentence in all_]
    right = sum(strongest(sentence) == emotion for emotion, sentence in pairs)
    page = (Path(__file__).parents[1] / "docs" / "directing.md").read_text(encoding="utf-8")
    assert f"{right} of the {len(pairs)}" in page


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_directions_words_mean_the_same_in_texts(emotion: str) -> None:
    for word in VOCABULARY[emotion]:
        assert strongest(f"He was {word} that day.") == emotion, word


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("The train leaves at nine.", CALM),
        ("", CALM),
        ("\U0001f642", CALM),
        ("He was happy.", (0.7, 0, 0, 0, 0, 0, 0, 0)),
        ("He was very happy.", (0.98, 0, 0, 0, 0, 0, 0, 0)),
        ("He was a bit happy.", (0.35, 0, 0, 0, 0, 0, 0, 0)),
        ("He was happy!", (0.84, 0, 0, 0, 0, 0, 0, 0)),
        ("He was HAPPY.", (0.98, 0, 0, 0, 0, 0, 0, 0)),
        ("HE WAS HAPPY.", (0.7, 0, 0, 0, 0, 0, 0, 0)),
        ("He was not happy.", (0, 0, 0.35, 0, 0, 0, 0, 0)),
        ("He wasn\u2019t at all angry.", CALM),
        ("He couldn't be happier, and never so cheerful.", (1, 0, 0, 0, 0, 0, 0, 0)),
        ("He was angry, scared and sad.", (0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0)),
        ("I was scared, but now I am glad.", (0.7, 0, 0, 0.175, 0, 0, 0, 0)),
        ("Such sorrow, and I am so depressed.", (0, 0, 0, 0, 0, 1, 0, 0)),
    ],
)
def test_what_a_text_tells_of(text: str, weights: tuple[float, ...]) -> None:
    assert classify(text) == pytest.approx(weights)


def test_where_words_disagree_the_tone_of_the_whole_decides() -> None:
    bright = "I cried at the wedding, it was such a wonderful, beautiful, perfect day."
    dark = "They laughed at the funeral, and it was a horrible, ugly, terrible day."
    assert weight(bright, "happy") > weight(bright, "sad") > 0
    assert weight(dark, "sad") > weight(dark, "happy") > 0


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("\u6211\u5f88\u9ad8\u5174\u89c1\u5230\u4f60\uff01", "happy"),
        ("\u4ed6\u4e0d\u9ad8\u5174\u3002", "sad"),
        ("\u6211\u5bb3\u6015\u9ed1\u6697\u3002", "afraid"),
        ("\u5929\u54ea\uff0c\u6ca1\u60f3\u5230\u662f\u4f60\u3002", "surprised"),
        ("\u4ed6\u5f88\u60b2\u4f24\uff0c\u5f88\u4f4e\u843d\u3002", "melancholic"),
        ("Estou muito feliz no jardim!", "happy"),
        ("N\u00e3o estou com raiva.", "calm"),
        ("Ela chorou a noite toda.", "sad"),
        ("Que nojo, a comida est\u00e1 podre!", "disgusted"),
    ],
)
def test_some_words_of_chinese_and_portuguese_are_known(text: str, emotion: str) -> None:
    assert strongest(text) == emotion


@pytest.mark.parametrize("text", ["not very " * 5_000, "a" * 50_000, "happy, " * 5_000, "but " * 10_000, "!" * 50_000])
def test_any_text_has_weights_of_one_at_most(text: str) -> None:
    assert 0 < sum(classify(text)) <= 1 + 1e-9
