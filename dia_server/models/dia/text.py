"""Text as the model reads it: UTF-8 bytes, with one byte for each speaker's tag."""

from __future__ import annotations

from dia_server.errors import BadInput

SPEAKER_BYTES = {"[S1]": b"\x01", "[S2]": b"\x02"}


def encode(text: str, limit: int) -> bytes:
    """The bytes of a text with `[S1]` and `[S2]` (transformers 5.23, `tokenization_dia.py`).

    Raises:
        BadInput: there are more than `limit`, which the model's own tokenizer would cut off in silence, or bytes 0 to 2
            in the text itself, which mean padding and speakers.
    """
    raw = text.encode()
    if any(byte in raw for byte in range(len(SPEAKER_BYTES) + 1)):
        raise BadInput("The text has control characters that model 'dia' takes for its own marks; remove them")
    for tag, byte in SPEAKER_BYTES.items():
        raw = raw.replace(tag.encode(), byte)
    if not raw:
        raise BadInput("There is no text for model 'dia' to speak")
    if len(raw) > limit:
        raise BadInput(
            f"With the transcript of the voice's recording the text has {len(raw)} bytes, model 'dia' reads {limit}; "
            "take a shorter recording, or set `segment_characters` lower"
        )
    return raw
