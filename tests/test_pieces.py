"""Scripts for a model that reads dialogue: how turns share a segment, and where they part."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_server.errors import BadInput, NothingToSpeak
from dia_server.script.dialogue import Pause, Script, Segment, parse_script, speakers, turns
from dia_server.script.text import Dialogue, clean
from test_script import Model, letters_of, pieces, words

BOUNDS = Dialogue(fewest_characters=30, most_characters=80, most_bytes=160)
TALKING = Model(languages=(), nonverbal=frozenset({"laughs"}), dialogue=BOUNDS)


def parse(text: str, limit: int = 250, model: Model = TALKING) -> Script:
    return parse_script(
        text, primary_speaker="S1", manifest=model, segment_characters=limit, max_pause_seconds=30, param="input"
    )


def said(text: str, limit: int = 250) -> list[str | float]:
    return [item.text if isinstance(item, Segment) else item.seconds for item in parse(text, limit)]


def spoken(segment: Segment) -> str:
    """The words without tags, which take no time."""
    return " ".join(part for _, part in turns(segment.text, segment.speaker) if part)


def test_turns_share_a_segment() -> None:
    assert parse("Hello. [S2] Hi! (laughs) [s1]How are you?[S2]Fine.") == (
        Segment("[S1] Hello. [S2] Hi! (laughs) [S1] How are you? [S2] Fine.", "S1"),
    )


def test_the_same_speaker_twice_has_one_turn() -> None:
    assert said("[S2] One. [S2] Two. [S1] [S2] Three. [S1] Four.") == ["[S2] One. Two. Three. [S1] Four."]


def test_a_segment_ends_with_a_turn_rather_than_within_one() -> None:
    assert said("[S1] The train was late again. It always is. [S2] Then take the bus with me. It is much slower.") == [
        "[S1] The train was late again. It always is.",
        "[S2] Then take the bus with me. It is much slower.",
    ]


def test_a_long_turn_parts_at_sentences_and_keeps_its_tag() -> None:
    text = "[S2] We left at noon today. The road was all mud. Nobody had warned us of it. So we turned round again."
    assert said(text) == [
        "[S2] We left at noon today. The road was all mud.",
        "[S2] Nobody had warned us of it. So we turned round again.",
    ]


def test_a_long_sentence_is_cut() -> None:
    segments = parse("[S1] " + "so we went on and on, " * 8 + "home.")
    assert [len(spoken(each)) for each in segments if isinstance(each, Segment)] == [65, 65, 49]


def test_no_short_rest_stands_alone_where_it_fits() -> None:
    assert said("It was a very long and rather dull evening at the museum. Was it? Yes. It was.") == [
        "[S1] It was a very long and rather dull evening at the museum. Was it? Yes. It was."
    ]
    assert said(
        "[S1] We walked along the river until it was dark outside. [S2] And then? [S1] Then we slept. [S2] Oh."
    ) == [
        "[S1] We walked along the river until it was dark outside.",
        "[S2] And then? [S1] Then we slept. [S2] Oh.",
    ]


def test_an_exact_pause_ends_a_segment() -> None:
    assert said("[S1] One. [pause:1s] Two. [S2] Three.") == ["[S1] One.", 1.0, "[S1] Two. [S2] Three."]


def test_the_settings_bound_segments_too() -> None:
    assert said("One two. Three. Four.", limit=10) == ["[S1] One two.", "[S1] Three.", "[S1] Four."]


def test_text_of_many_bytes_a_character_fits_as_well() -> None:
    for text in ("日" * 500, "é" * 500, "\U0001d41b" * 500, "[S1] ж [S2] ц " * 60):
        segments = [item for item in parse(text) if isinstance(item, Segment)]
        assert max(len(each.text.encode()) for each in segments) <= BOUNDS.most_bytes
        assert letters_of("".join(map(spoken, segments))) == letters_of(text.replace("[S1]", "").replace("[S2]", ""))


def test_who_speaks() -> None:
    assert speakers(parse("Hello. [S2] Hi. [pause:1s] [S1] [S2] Well.")) == {"S1", "S2"}
    assert speakers(parse("[S2] Hi.")) == {"S2"}


limits = st.sampled_from([1, 7, 30, 80, 250])


@given(st.lists(st.one_of(pieces, st.just("[pause:1s]")), max_size=20), limits)
@settings(max_examples=300, deadline=None)
def test_any_dialogue_is_well_formed(parts: list[str], limit: int) -> None:
    text = "".join(parts)
    try:
        script = parse(text, limit)
    except BadInput:
        return
    assert script == parse(text, limit)
    for item in script:
        if isinstance(item, Pause):
            continue
        assert len(spoken(item)) <= min(limit, BOUNDS.most_characters)
        assert len(item.text.encode()) <= BOUNDS.most_bytes
        assert item.text.startswith(f"[{item.speaker}] ")
        said = list(turns(item.text, item.speaker))[1:]
        assert all(part for _, part in said)
        assert all(one[0] != other[0] for one, other in pairwise(said))


@given(st.lists(st.tuples(st.sampled_from(["S1", "S2"]), words), min_size=1, max_size=12), limits)
@settings(max_examples=300, deadline=None)
def test_nobody_loses_a_word(said: list[tuple[str, str]], limit: int) -> None:
    cleaned = clean("".join(f"[{who}] {part} " for who, part in said), "input")
    expected = [(who, letter) for who, part in turns(cleaned, "S1") for letter in letters_of(part)]
    try:
        script = parse(cleaned, limit)
    except NothingToSpeak:
        assert not expected
        return
    segments = [item for item in script if isinstance(item, Segment)]
    heard = [(who, part) for each in segments for who, part in turns(each.text, each.speaker)]
    assert [(who, letter) for who, part in heard for letter in letters_of(part)] == expected


@given(st.lists(st.tuples(st.sampled_from(["S1", "S2"]), st.integers(1, 90)), min_size=2, max_size=20))
@settings(max_examples=300, deadline=None)
def test_what_is_short_fits_to_no_neighbour(lengths: list[tuple[str, int]]) -> None:
    text = " ".join(f"[{who}] {'a' * length}." for who, length in lengths)
    segments = [item for item in parse(text) if isinstance(item, Segment)]
    for one, other in pairwise(segments):
        if min(len(spoken(one)), len(spoken(other))) < BOUNDS.fewest_characters:
            assert len(spoken(one)) + 1 + len(spoken(other)) > BOUNDS.most_characters


@pytest.mark.parametrize("unit", [" \n", "[S1] a ", "[S1] a [S2] b ", "Ms. ", "a\n", "a. ", "日"])
def test_hostile_dialogues_take_linear_time(unit: str) -> None:
    # What takes quadratic time in any of these needs minutes.
    text = "x" + unit * (300_000 // len(unit))
    started = perf_counter()
    parse(text)
    assert perf_counter() - started < 20


@given(
    st.lists(
        st.tuples(st.sampled_from(["S1", "S2"]), st.text("aé日\U0001d41b. ", max_size=300)), min_size=1, max_size=20
    )
)
@settings(max_examples=100, deadline=None)
def test_dia_can_read_any_segment_behind_the_one_before_it(said: list[tuple[str, str]]) -> None:
    pytest.importorskip("torch")
    from dia_server.models.dia import MANIFEST
    from dia_server.models.dia.reading import tagged
    from dia_server.models.dia.text import encode

    model = Model(languages=(), dialogue=MANIFEST.dialogue)
    try:
        script = parse(" ".join(f"[{who}] {part}" for who, part in said), model=model)
    except NothingToSpeak:
        return
    segments = [item for item in script if isinstance(item, Segment)]
    for one, other in pairwise(segments):
        assert encode(tagged(f"[{one.speaker}] {one.text} [{other.speaker}] {other.text}"), 1024)
