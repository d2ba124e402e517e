"""From text to a script: what is refused, who says what, where it is cut, and that no word is lost."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from time import perf_counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_server.errors import BadInput, NothingToSpeak
from dia_server.script.dialogue import NONVERBAL, PAUSE_SECONDS, Pause, Script, Segment, parse_script
from dia_server.script.sentences import cut, split_sentences
from dia_server.script.text import Dialogue, clean

LIMIT = 250
PAUSE = Pause(PAUSE_SECONDS)


class Model(NamedTuple):
    """As much of a manifest as a script depends on."""

    name: str = "wren"
    languages: tuple[str, ...] = ("en",)
    nonverbal: frozenset[str] = frozenset()
    dialogue: Dialogue | None = None


ENGLISH = Model()
ANY = Model(languages=())
LAUGHING = Model(nonverbal=frozenset({"laughs", "clears throat"}))


def parse(text: str, model: Model = ENGLISH, limit: int = LIMIT, speaker: str = "S1") -> Script:
    return parse_script(
        text, primary_speaker=speaker, manifest=model, segment_characters=limit, max_pause_seconds=30, param="input"
    )


def said(text: str, model: Model = ENGLISH, limit: int = LIMIT) -> list[str | float]:
    """The texts of the segments, and the seconds of the pauses."""
    return [item.text if isinstance(item, Segment) else item.seconds for item in parse(text, model, limit)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ab\0c", "Character 3 of the text, U+0000, is a control character"),
        ("\x1b[31mred", "Character 1 of the text, U+001B"),
        ("a\x7f", "U+007F"),
        ("a\x85b", "U+0085"),
        ("good\ud83d", "Character 5 of the text, U+D83D, is half of a surrogate pair"),
    ],
)
def test_characters_that_no_text_may_hold(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert words in str(caught.value)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", "input")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  two   blanks\t and\u00a0\u3000more  ", "two blanks and more"),
        ("a\r\nb\rc\u2028d\n \n\n e \n", "a\nb\nc\nd\ne"),
        ("*waves* **so** un*believ*able ***", "waves so unbelievable"),
        ("2*3 and 2\t*  3", "2\u00d73 and 2 \u00d7 3"),
        ("* milk\n* eggs", "milk\neggs"),
        ("co\u00adoperate \ufeffhere", "cooperate here"),
        ("cafe\u0301 nai\u0308ve", "caf\u00e9 na\u00efve"),
        ("\U0001f469\u200d\U0001f469 stays", "\U0001f469\u200d\U0001f469 stays"),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean(text, "input") == cleaned


@given(st.text())
@settings(deadline=None)
def test_cleaning_is_done_in_one_go(text: str) -> None:
    try:
        cleaned = clean(text, "input")
    except BadInput:
        return
    assert clean(cleaned, "input") == cleaned
    assert not any(character.isspace() and character not in " \n" for character in cleaned)


def test_the_language_of_half_the_letters_counts() -> None:
    assert said("日本 ab") == ["日本 ab"]
    wide_and_bold = "\uff37\uff49\uff44\uff45 \U0001d41b\U0001d428\U0001d425\U0001d41d \ufb01ne"
    assert said(wide_and_bold) == [wide_and_bold]
    assert said("12:30") == ["12:30"]
    assert said("日本語です。", ANY) == ["日本語です。"]
    assert said("日本語です。", Model(languages=("ja",))) == ["日本語です。"]
    # Tags are no letters of the text.
    for text in ("日本 a", "Привет, мир", "[S1] 日 [S2] 本", "(laughs) 日本"):
        with pytest.raises(BadInput, match=r"Model 'wren' reads English \(en\)") as caught:
            parse(text)
        assert caught.value.code == "invalid_value"


def test_turns() -> None:
    assert parse("Hello. [S2] Hi! [s1]How are you?[S2]Fine.", speaker="S2") == (
        Segment("Hello.", "S2"),
        Segment("Hi!", "S2"),
        Segment("How are you?", "S1"),
        Segment("Fine.", "S2"),
    )
    assert parse("[S1] [S2] ... [S1] One. [S2]") == (Segment("One.", "S1"),)
    assert said("[S] is a room, [S1 too, [Sx]") == ["[S] is a room, [S1 too, [Sx]"]


@pytest.mark.parametrize("tag", ["[S3]", "[s0]", "[S12]", "[S01]"])
def test_a_third_speaker_has_no_turn(tag: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(f"[S1] Hello. [S2] Hi. {tag} And me?")
    assert f"'{tag}' is nobody's turn: a text has two speakers, [S1] and [S2]" in caught.value.message
    assert caught.value.param == "input"


def test_nonverbal_tags_that_the_model_speaks_stay() -> None:
    assert said("Well (laughs). ( Clears Throat ) Fine (sighs) then.", LAUGHING) == [
        "Well (laughs).",
        "(clears throat) Fine",
        PAUSE_SECONDS,
        "then.",
    ]
    assert said("(LAUGHS)", LAUGHING) == ["(laughs)"]
    assert said("word (clears throat) " * 3, LAUGHING, limit=15) == ["word", "(clears throat)"] * 3


def test_other_nonverbal_tags_become_pauses_between_segments() -> None:
    assert len(set(NONVERBAL)) == 21
    for name in NONVERBAL:
        assert said(f"So ({name}), we went.") == ["So,", PAUSE_SECONDS, "we went."]
    assert said("(beep) One (beep) (beep)... (beep) two. (beep)") == ["One", PAUSE_SECONDS, "two."]
    assert parse("One (sighs) [S2] (sighs) Two.") == (Segment("One", "S1"), PAUSE, Segment("Two.", "S2"))
    assert said("Hello! (sighs). Then, (coughs), go.") == ["Hello!", PAUSE_SECONDS, "Then,", PAUSE_SECONDS, "go."]
    assert said("It (the beep) and (laughs loudly) are text.") == ["It (the beep) and (laughs loudly) are text."]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Dropped: blanks and asterisks"),
        (" \n * ", "Dropped: blanks and asterisks"),
        ("?!...", "not said aloud: ?!..."),
        ("\U0001f600\U0001f389", "not said aloud: \U0001f600\U0001f389"),
        ("(laughs) (Sighs)(laughs)", "tags that this model does not have: (laughs), (sighs)"),
        ("[S1] [S2]", "speaker tags with no words behind them"),
        ("\u0301" * 1000, "not said aloud: \u0301"),
    ],
)
def test_nothing_to_speak(text: str, words: str) -> None:
    with pytest.raises(NothingToSpeak, match="nothing to speak for model 'wren'") as caught:
        parse(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250
    assert (caught.value.code, caught.value.param) == ("nothing_to_speak", "input")


@pytest.mark.parametrize("symbol", ["%", "&", "+", "=", "\u00a9", "№", "5", "½", "①"])
def test_symbols_with_a_name_are_spoken(symbol: str) -> None:
    assert said(symbol) == [symbol]


def test_what_is_not_said_goes_with_what_is() -> None:
    assert said("... Hello. !!! How are you? \U0001f600 \U0001f389.") == [
        "... Hello. !!!",
        "How are you? \U0001f600 \U0001f389.",
    ]
    assert said("Hello" + "!" * 100, limit=30) == ["Hello" + "!" * 25]
    assert said("Hello. 日本語。 How are all of you?") == ["Hello. 日本語。", "How are all of you?"]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Amara Bell met Ms. Reyes.", "They talked."],
        ["J. K. Tamsin wrote it.", "It is short."],
        ["It costs $4.50.", "Version 2.10.3 is out."],
        ["Write to help@river.example, or see https://maps.example/a?b=4.2.", "They answer."],
        ["1. Wash the rice.", "2. Boil it."],
        ["It weighs approx. three kilos, incl. the box.", "Lift it."],
        ["ok so i went home.", "then i slept"],
        ["“Close the door,” said Ana.", "“It is cold.”"],
        ["Wait... what?", "No!"],
        ["It rained.", "Then I went.", "Why?"],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences), "en") == sentences


def test_a_line_feed_ends_a_sentence() -> None:
    assert said("Roses at the gate\nsmoke above the hill\n\nNobody is home") == [
        "Roses at the gate",
        "smoke above the hill",
        "Nobody is home",
    ]


@pytest.mark.parametrize(
    ("text", "limit", "pieces"),
    [
        ("we go, you stay, they sing, all is well", 20, ["we go, you stay,", "they sing,", "all is well"]),
        ("we went home, and then we slept all day", 25, ["we went home,", "and then we slept all day"]),
        ("one two three four five six", 10, ["one two", "three", "four", "five six"]),
        ("No, it goes on without a stop", 20, ["No, it goes on", "without a stop"]),
        ("abcdefghij klm", 4, ["abcd", "efgh", "ij", "klm"]),
        ("We met good Dr. Bell, at the old pier", 30, ["We met good Dr. Bell,", "at the old pier"]),
        ('"We came late. They left." He sat down again', 30, ['"We came late. They left."', "He sat down again"]),
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301", "e\u0301", "e\u0301"]),
        ("x" + "\u0301" * 5, 3, ["x\u0301\u0301", "\u0301\u0301\u0301"]),
    ],
)
def test_cuts(text: str, limit: int, pieces: list[str]) -> None:
    assert list(cut(text, limit)) == pieces


def test_the_library_gets_no_line_of_any_length() -> None:
    assert [len(block) for block in split_sentences("'" * 25_000, "en")] == [10_000, 10_000, 5_000]


def test_cuts_prefer_clauses_and_equal_parts() -> None:
    text = "a " * 60 + "end, " + "b " * 70
    assert said(text, limit=200) == ["a " * 60 + "end,", ("b " * 70).strip()]
    assert [len(str(piece)) for piece in said("c " * 201, limit=200)] == [133, 133, 133]


words = st.text(
    st.one_of(
        st.sampled_from("aB9 \n.,;:!?—…\"'“”-@日é\u0301\u200d\U0001f600"),
        st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="[]()"),
    ),
    max_size=60,
)
pieces = st.one_of(words, st.sampled_from(["[S1]", "[s2] ", "(laughs)", " (Sighs). ", "Mr. ", "Ms. ", "1. ", "U.S. "]))


@given(st.lists(pieces, max_size=12), st.sampled_from([1, 2, 7, 30, 250]), st.sampled_from([ENGLISH, ANY, LAUGHING]))
@settings(max_examples=400, deadline=None)
def test_any_script_is_well_formed(parts: list[str], limit: int, model: Model) -> None:
    text = "".join(parts)
    try:
        script = parse(text, model, limit)
    except BadInput:
        return
    assert script == parse(text, model, limit)
    assert isinstance(script[0], Segment)
    assert isinstance(script[-1], Segment)
    for item, following in pairwise(script):
        assert isinstance(item, Segment) or isinstance(following, Segment)
    for item in script:
        if isinstance(item, Segment):
            assert 0 < len(item.text) <= limit
            assert item.text == item.text.strip()
            assert "\n" not in item.text
            assert item.speaker in {"S1", "S2"}
        else:
            assert item == PAUSE


def letters_of(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


@given(st.lists(words, min_size=1, max_size=8), st.sampled_from([1, 2, 7, 30, 250]))
@settings(max_examples=400, deadline=None)
def test_no_word_is_lost_or_said_twice(parts: list[str], limit: int) -> None:
    expected = letters_of(clean(" ".join(parts), "input"))
    try:
        script = parse("[S2]".join(f" {part} " for part in parts), ANY, limit)
    except NothingToSpeak:
        assert not expected
        return
    assert letters_of("".join(item.text for item in script if isinstance(item, Segment))) == expected


@given(st.text(st.characters(exclude_categories=[])))
@settings(deadline=None)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(BadInput):
        assert parse(text, ANY)


@pytest.mark.parametrize("blank", ["\u00a0", "\u2028", "\u2003", "\u3000", "\u1680", "\t"])
def test_blanks_that_crash_the_library_never_reach_it(blank: str) -> None:
    assert "".join(str(part) for part in said(f"I{blank}. A{blank}.) b")).replace(" ", "") == "I.A.)b"


@pytest.mark.parametrize(
    "unit", ["\u0301\u0316", "\u05b4\u05b0", " \n", "(laughs)", "[S1] a ", "Ms. ", '"', "* ", "1*", "a", "(laughs"]
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    # What takes quadratic time in any of these needs minutes.
    text = "x" + unit * (300_000 // len(unit))
    started = perf_counter()
    parse(text)
    assert perf_counter() - started < 10
