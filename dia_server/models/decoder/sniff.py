"""What an audio file is, by its first bytes: FFmpeg is told, so that none of its other readers ever sees it.

Among those are playlists and scripts that name other files and addresses.
"""

from __future__ import annotations

import re

import msgspec

HEAD_BYTES = 26


class Container(msgspec.Struct, frozen=True):
    """A kind of file.

    Attributes:
        name: for people.
        demuxer: FFmpeg's name of its reader.
        magic: matches the beginning of such a file.
        is_counted: its header promises a length to the sample, so that a file which was cut off shows.
    """

    name: str
    demuxer: str
    magic: re.Pattern[bytes]
    is_counted: bool = False


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


CONTAINERS = (
    Container("wav", "wav", _magic(rb"RIFF....WAVE")),
    Container("flac", "flac", _magic(rb"fLaC"), is_counted=True),
    Container("ogg", "ogg", _magic(rb"OggS")),
    Container("m4a", "mov", _magic(rb"....ftyp"), is_counted=True),
    Container("webm", "matroska", _magic(rb"\x1aE\xdf\xa3")),
    # An ADTS frame is like one of MPEG audio whose layer is 0.
    Container("aac", "aac", _magic(rb"\xff[\xf0\xf1\xf8\xf9]")),
    Container("mp3", "mp3", _magic(rb"ID3|\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]")),
)


def sniff(head: bytes) -> Container | None:
    """The kind of file that begins with `head`, its first `HEAD_BYTES` bytes; None for one that isn't read."""
    return next((container for container in CONTAINERS if container.magic.match(head)), None)
