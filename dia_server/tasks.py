"""Units of work for a model, and the events that come back: pure data, one struct per capability.

A task carries everything that its samples depend on, so that any worker with the same fingerprint gives the
same bytes for it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

SAMPLE_BYTES = 4


EMOTIONS = ("happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A recording of somebody to sound like.

    Attributes:
        path: of a 16-bit wav file, absolute; it is never changed.
        sha256: of the file, as hex digits.
        transcript: what is said in it; None if nobody has written it down.
    """

    path: str
    sha256: str
    transcript: str | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How the text should be said; each model turns it into its own controls.

    Attributes:
        speed: pace relative to the model's own, within the range of its manifest.
        pitch: higher or lower than the voice's own, in semitones.
        volume: louder or softer than normal, in dB.
        emotion: weights from 0 to 1, in the order of `EMOTIONS`; empty for none.
        emotion_reference: a recording whose manner is taken over instead, whoever speaks in it.
        emotion_strength: how much of that manner, from 0 to 1.
        style: manner of speaking; one that the model doesn't know is said as neutral.
    """

    speed: float = 1.0
    pitch: float = 0.0
    volume: float = 0.0
    emotion: tuple[float, ...] = ()
    emotion_reference: Reference | None = None
    emotion_strength: float = 1.0
    style: str = "neutral"


class Speak(msgspec.Struct, frozen=True, kw_only=True, tag="speak"):
    """Read one segment aloud.

    `Done.value` has what a model tells of its work where its options ask for that, by name; else None.

    Attributes:
        model: registered name of the model.
        text: the segment's text; with speaker tags only for models that read dialogue.
        speaker: who speaks within the voice, `S1` or `S2`; in a dialogue, who speaks first.
        is_partner: someone other than the voice's own speaker, whom no voice is tied to.
        seed: 0 to 2**63-1; with the fingerprint and the other fields it fixes every sample.
        options: the model's own options, as the manifest's `options` struct has them.
        references: whom to imitate, by speaker, for models that can.
        is_chained: it goes on from the segment before it, and can't begin before that one has ended.
        carry: what that segment left, its `Done.carry`.
    """

    model: str
    text: str
    speaker: str = "S1"
    is_partner: bool = False
    seed: int
    delivery: Delivery = Delivery()
    options: dict[str, Any] = {}
    references: dict[str, Reference] = {}
    is_chained: bool = False
    carry: bytes = b""


class Decode(msgspec.Struct, frozen=True, kw_only=True, tag="decode"):
    """Read an audio file that nobody vouches for; the samples come as `Audio` at the manifest's rate, mono.

    `Done.value` has `format`, `sample_rate` and `channels` of the file.

    Attributes:
        path: of the file, absolute.
        max_seconds: a longer one is refused once so much of it is decoded.
    """

    model: str = "decoder"
    path: str
    max_seconds: float


class Transcribe(msgspec.Struct, frozen=True, kw_only=True, tag="transcribe"):
    """Write down what is said in a recording.

    `Done.value` has `text`, `language`, `seconds`, `size` (of the weights that listened) and `segments`: `start`,
    `end`, `text`, `words` (`word`, `start`, `end`; empty unless asked for), and what the decoder says of them, as
    OpenAI's API names it: `seek`, `tokens`, `temperature`, `avg_logprob`, `compression_ratio`, `no_speech_prob`; times
    in seconds.

    Attributes:
        path: of a 16-bit wav file, absolute; its writer vouches for it.
        size: of the weights, such as `base`.
        is_strict: no smaller weights may stand in for those that can't be had.
        language: ISO 639-1 code; None to have it found out.
        prompt: words that set the style, or names that occur.
        temperature: 0 for the likeliest words.
        is_translation: into English.
        with_words: times of single words too.
    """

    model: str = "whisper"
    path: str
    size: str
    is_strict: bool = False
    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    is_translation: bool = False
    with_words: bool = False


class Classify(msgspec.Struct, frozen=True, kw_only=True, tag="classify"):
    """Tell which emotions a text has.

    `Done.value` has their weights, in the order of `EMOTIONS`, from 0 to 1 and 1 at most together.
    """

    model: str
    text: str


Task = Speak | Decode | Transcribe | Classify


class Audio(msgspec.Struct, frozen=True, tag="audio"):
    """Some consecutive samples of a task.

    Attributes:
        first_sample: index of the first of them, counted from the task's start.
        pcm: mono float32 little-endian samples at the model's sample rate, nominally within [-1, 1].
    """

    first_sample: int
    pcm: bytes


class Word(msgspec.Struct, frozen=True):
    """A word, or some that the model reads as one, and where it sounds.

    Attributes:
        text: as it stands in the task's text, with its punctuation.
        start: its first sample, counted like those of `Audio`.
        end: the first sample behind it.
    """

    text: str
    start: int
    end: int


class Marks(msgspec.Struct, frozen=True, tag="marks"):
    """The words of the samples that come next, in order."""

    words: tuple[Word, ...]


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The task ended well.

    Attributes:
        samples: how many there were in all.
        value: what came of it besides, as the task's struct says.
        carry: what the next segment of the clip needs to go on from this one; only the model reads it.
        findings: names of what the model found wrong with the sound that it sent, such as `silent`.
    """

    samples: int
    value: Any = None
    carry: bytes = b""
    findings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The model could not do the task; it would fail again.

    Attributes:
        message: what was wrong, and what to do.
        is_input_wrong: that is for the client to mend.
        is_unavailable: it is for the admin, since the model lacks something here.
    """

    message: str
    is_input_wrong: bool = False
    is_unavailable: bool = False


Ending = Done | Failed
Event = Audio | Marks | Ending


def derive_seed(seed: int, segment: int, attempt: int = 0) -> int:
    """The seed of an attempt at one segment of a clip: 63 bits of a hash, so that neighbouring seeds share nothing."""
    digest = hashlib.blake2b(f"{seed}:{segment}:{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
