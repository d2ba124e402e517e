"""What headers claim that FFmpeg passes over: it trusts the frames of a FLAC file, and the end of a WAV file."""

from __future__ import annotations

import struct
from typing import IO

_RIFF_HEADER = 12
_CHUNK = struct.Struct("<4sI")
# Programs that write as the sound comes leave the size open in one of these ways.
_OPEN_SIZES = (0, 0xFFFFFFFF)
_MOST_CHUNKS = 64

# FLAC's first block: 20 bits of rate and 3 of channels less one.
_FLAC_FORMAT = slice(18, 21)


def missing_wav_bytes(file: IO[bytes]) -> int:
    """How many bytes of samples a WAV file promises that are not there; leaves the file anywhere."""
    length = file.seek(0, 2)
    position = _RIFF_HEADER
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        header = file.read(_CHUNK.size)
        if len(header) < _CHUNK.size:
            break
        name, size = _CHUNK.unpack(header)
        position += _CHUNK.size
        if name == b"data":
            return 0 if size in _OPEN_SIZES else max(0, position + size - length)
        position += size + size % 2
    return 0


def flac_format(head: bytes) -> tuple[int, int]:
    """Sample rate in Hz and number of channels that a FLAC file claims; (0, 0) for one that ends before it does."""
    if len(head) < _FLAC_FORMAT.stop:
        return 0, 0
    bits = int.from_bytes(head[_FLAC_FORMAT], "big")
    return bits >> 4, (bits >> 1 & 7) + 1
