"""What the server and a program say to each other: one JSON object a line, version 1; docs/programs.md tells it."""

from __future__ import annotations

from typing import Any

import msgspec

VERSION = 1


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Say something.

    Attributes:
        id: names it in every answer.
        seed: 0 to 2**63-1; the same one gives the same sound.
        reference: path of a recording to sound like, a 16-bit wav file whose name is its sha256, or none.
        transcript: what is said in it, if somebody has written it down.
        emotion: weights from 0 to 1 of the eight emotions, or none of them.
        emotion_reference: path of a recording whose manner is wanted.
        emotion_strength: how much of that manner, from 0 to 1.
        options: all that config.yaml names.
        output: path of the wav file to write.
    """

    id: int
    text: str
    seed: int
    reference: str | None
    transcript: str | None
    emotion: tuple[float, ...]
    emotion_reference: str | None
    emotion_strength: float
    options: dict[str, Any]
    output: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the program's: that it is ready, how an order ended, or that it gets on.

    Attributes:
        protocol: the version that it speaks.
        name: what it is called.
        version: of everything that its sound depends on: its own, its libraries', its weights', its GPU.
        id: of the order that has ended.
        ok: the file is there.
        error: why it isn't, in words for the client.
        is_input_wrong: that is for the client to mend.
        beat: it gets on.
        progress: how far it is, from 0 to 1.
    """

    ready: bool = False
    protocol: int = VERSION
    sample_rate: int = 0
    name: str = ""
    version: str = ""
    id: int | None = None
    ok: bool = False
    error: str | None = None
    is_input_wrong: bool = False
    beat: bool = False
    progress: float | None = None

    @property
    def is_sign_of_life(self) -> bool:
        """It says nothing else."""
        is_more = self.ready or self.ok or self.error is not None
        return (self.beat or self.progress is not None) and not is_more


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Said).decode
