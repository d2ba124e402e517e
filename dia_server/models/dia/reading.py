"""From a task to what the model reads: what was said before, as text and as codes, then the new text.

The model knows speakers by what it has heard of them: a prompt for each, or the segment before. It wants tags to begin
with `[S1]` and to take turns (nari-labs/dia, README), so that speakers get theirs in the order in which they come.
"""

from __future__ import annotations

import msgspec
import numpy as np

from dia_server.errors import BadInput
from dia_server.models.dia.delay import Codes
from dia_server.models.dia.prompts import Prompts
from dia_server.script import dialogue
from dia_server.tasks import Speak


class Lead(msgspec.Struct, frozen=True):
    """What the model has heard before a text.

    Attributes:
        text: with the voice's speaker tags.
        codes: int16, (frames, channels).
    """

    text: str = ""
    codes: bytes = b""

    def frames(self, channels: int) -> Codes:
        """The codes as the model wants them."""
        return np.frombuffer(self.codes, np.int16).reshape(-1, channels).astype(np.int64)


_decode = msgspec.msgpack.Decoder(Lead).decode


def lead_of(task: Speak, prompts: Prompts) -> Lead:
    """What comes before the task's text: the segment that it goes on from, or the prompts of those who speak.

    Raises:
        BadInput: a prompt has no transcript.
        BadRecording: a prompt can't be read, or is too long.
    """
    if task.carry:
        return _decode(task.carry)
    speakers = dict.fromkeys(speaker for speaker, _ in turns(task.text, task.speaker))
    references = [(speaker, task.references[speaker]) for speaker in speakers if speaker in task.references]
    if any(not reference.transcript for _, reference in references):
        raise BadInput(
            "Model 'dia' needs to know what is said in the voice's recording; give its audio prompt a transcript"
        )
    text = " ".join(_said(speaker, reference.transcript or "") for speaker, reference in references)
    return Lead(text, b"".join(_packed(prompts.codes(reference)) for _, reference in references))


def carry_of(task: Speak, codes: Codes) -> bytes:
    """What a segment leaves to the one behind it: nothing if it has no sound, as that one would say its text too."""
    if not len(codes):
        return b""
    return msgspec.msgpack.encode(Lead(f"[{task.speaker}] {task.text}", _packed(codes)))


def turns(text: str, speaker: str) -> list[tuple[str, str]]:
    """Who says what; `speaker` says what stands before the first tag."""
    return [(who, words) for who, words in dialogue.turns(text, speaker) if words]


def tagged(text: str) -> str:
    """The text with the model's own tags: `[S1]` for who speaks first, and none where the same speaker goes on."""
    parts: list[str] = []
    tags: dict[str, str] = {}
    last = None
    for who, words in turns(text, "S1"):
        tag = tags.setdefault(who, f"[S{len(tags) + 1}]")
        parts.append(words if who == last else f"{tag} {words}")
        last = who
    return " ".join(parts)


def _said(speaker: str, transcript: str) -> str:
    """A transcript behind its speaker's tag; it may have one of its own, whatever its speaker is called here."""
    found = turns(transcript, speaker)
    # One of two speakers keeps its tags.
    if len({who for who, _ in found}) == 1:
        transcript = " ".join(words for _, words in found)
    return f"[{speaker}] {transcript}"


def _packed(codes: Codes) -> bytes:
    return codes.astype(np.int16).tobytes()
