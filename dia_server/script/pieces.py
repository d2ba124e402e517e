"""Several turns as one piece, for models that read a dialogue themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from dia_server.script.sentences import cut
from dia_server.script.text import Dialogue

# Who speaks, and a sentence or a part of one.
Part = tuple[str, str]


def cut_to_fit(sentence: str, bounds: Dialogue) -> Iterator[str]:
    """Pieces of a sentence, each of which fits into the bounds with its tag."""
    for piece in cut(sentence, bounds.most_characters):
        if len(piece) == 1 or _bytes(("S1", piece), None) <= bounds.most_bytes:
            yield piece
        else:
            yield from cut_to_fit(piece, bounds._replace(most_characters=ceil(len(piece) / 2)))


def join(parts: Sequence[Part], bounds: Dialogue) -> Iterator[Sequence[Part]]:
    """Runs of parts of about equal length, each within the bounds if every part is.

    One ends with a turn where it can. None that is shorter than the fewest characters could stand with a neighbour.
    """
    held: Sequence[Part] = []
    for run in _runs(parts, bounds):
        is_short = min(_characters(held), _characters(run)) < bounds.fewest_characters
        if held and is_short and _fits([*held, *run], bounds):
            held = [*held, *run]
            continue
        if held:
            yield held
        held = run
    if held:
        yield held


def tagged(parts: Sequence[Part]) -> str:
    """The parts as one text, with a tag for each turn."""
    return " ".join(words if tag is None else f"[{tag}] {words}" for tag, words in _with_tags(parts))


def _with_tags(parts: Sequence[Part]) -> Iterator[tuple[str | None, str]]:
    last = None
    for speaker, words in parts:
        yield (None if speaker == last else speaker), words
        last = speaker


def _runs(parts: Sequence[Part], bounds: Dialogue) -> Iterator[Sequence[Part]]:
    start, rest = 0, _characters(parts)
    while start < len(parts):
        stop = _next_stop(parts, start, rest, bounds)
        yield parts[start:stop]
        rest -= _characters(parts[start:stop]) + 1
        start = stop


def _next_stop(parts: Sequence[Part], start: int, rest: int, bounds: Dialogue) -> int:
    """Where the run that begins at `start` had best end; `rest` are the characters from there on."""
    goal = rest / ceil(rest / bounds.most_characters)
    stops: list[tuple[float, int]] = []
    ends_of_turns: list[tuple[float, int]] = []
    characters = size = 0
    for number in range(start, len(parts)):
        before = parts[number - 1] if number > start else None
        characters += len(parts[number][1]) + (before is not None)
        size += _bytes(parts[number], before)
        if stops and (characters > bounds.most_characters or size > bounds.most_bytes):
            break
        stop = abs(characters - goal), number + 1
        stops.append(stop)
        is_last = number + 1 == len(parts)
        if characters >= bounds.fewest_characters and (is_last or parts[number + 1][0] != parts[number][0]):
            ends_of_turns.append(stop)
    return min(ends_of_turns or stops)[1]


def _characters(parts: Sequence[Part]) -> int:
    """Without tags, as the time that they take doesn't depend on those."""
    return sum(len(words) for _, words in parts) + max(0, len(parts) - 1)


def _bytes(part: Part, before: Part | None) -> int:
    """What a part adds to the text behind another one."""
    tag = "" if before is not None and before[0] == part[0] else f"[{part[0]}] "
    return len(f"{tag}{part[1]}".encode()) + (before is not None)


def _fits(parts: Sequence[Part], bounds: Dialogue) -> bool:
    return _characters(parts) <= bounds.most_characters and len(tagged(parts).encode()) <= bounds.most_bytes
