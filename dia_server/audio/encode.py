"""The audio formats, and a streaming encoder for each: the same samples give the same bytes in any process."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from dia_server.audio.ffmpeg import FFmpegEncoder, Recipe, whole_flac
from dia_server.audio.samples import Samples, to_int16

SAMPLE_BYTES = 2
PCM_RATE = 24_000
# Lower ones are left out: there LAME and AAC allow less than our bit rates.
MPEG_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)

WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
UNKNOWN_SIZE = 0xFFFFFFFF


class Encoder(Protocol):
    """Encodes one clip; the joined output doesn't depend on how the input was cut."""

    def encode(self, samples: Samples) -> bytes:
        """What `samples` complete; at most 0.2 s stay behind, for later calls."""

    def finish(self) -> bytes:
        """The rest; call it once, after the last `encode`.

        Of no samples at all, wav makes its header and every other format nothing.
        """


class PcmEncoder:
    """16-bit little-endian samples and nothing else."""

    def __init__(self, sample_rate: int) -> None:
        """`sample_rate` in Hz."""
        self._sample_rate = sample_rate

    def encode(self, samples: Samples) -> bytes:
        return to_int16(samples).astype("<i2", copy=False).tobytes()

    def finish(self) -> bytes:
        return b""


class WavEncoder(PcmEncoder):
    """The same behind a header that leaves the sizes open."""

    _begun = False

    def encode(self, samples: Samples) -> bytes:
        return self._begin() + super().encode(samples)

    def finish(self) -> bytes:
        return self._begin()

    def _begin(self) -> bytes:
        header = b"" if self._begun else wav_header(self._sample_rate)
        self._begun = True
        return header


def wav_header(sample_rate: int, data_bytes: int | None = None) -> bytes:
    """The 44 bytes before mono 16-bit samples: `data_bytes` bytes of them, or as many as will come (None)."""
    return WAV_HEADER.pack(
        *(b"RIFF", UNKNOWN_SIZE if data_bytes is None else WAV_HEADER.size - 8 + data_bytes, b"WAVE"),
        *(b"fmt ", 16, 1, 1, sample_rate, sample_rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES),
        *(b"data", UNKNOWN_SIZE if data_bytes is None else data_bytes),
    )


def whole_wav(stream: bytes) -> bytes:
    """A complete streamed WAV file with the sizes filled in."""
    sample_rate = WAV_HEADER.unpack_from(stream)[7]
    return wav_header(sample_rate, len(stream) - WAV_HEADER.size) + stream[WAV_HEADER.size :]


def is_whole_wav(data: bytes) -> bool:
    """Whether the data is a file that `whole_wav` made."""
    return len(data) > WAV_HEADER.size and whole_wav(data) == data


def _unchanged(stream: bytes) -> bytes:
    return stream


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """An audio format that a listener may ask for.

    Attributes:
        content_type: for the HTTP header.
        extension: for file names, without a dot.
        encoder: makes the encoder for a clip at a sample rate in Hz.
        rates: the sample rates that the encoder takes, ascending; empty for any.
        whole: makes of a complete stream the file for those who get it in one piece.
        light: encoding takes microseconds per second of audio, less than handing it to a thread.
        delay: samples that are heard before the clip's first one, where a file can't tell a decoder to drop them.
    """

    content_type: str
    extension: str
    encoder: Callable[[int], Encoder]
    rates: tuple[int, ...] = ()
    whole: Callable[[bytes], bytes] = _unchanged
    light: bool = False
    delay: int = 0

    def rate_for(self, sample_rate: int) -> int:
        """The rate to encode a model's samples at: their own, else the next higher, else the highest."""
        if not self.rates:
            return sample_rate
        return next((rate for rate in self.rates if rate >= sample_rate), self.rates[-1])

    def delay_seconds(self, sample_rate: int) -> float:
        """How much later than in the clip a sound is heard, for a model's sample rate."""
        return self.delay / self.rate_for(sample_rate)


MP3 = Recipe(
    container="mp3",
    codec="libmp3lame",
    sample_format="s16p",
    # Up to this rate, more bits bring more fidelity; level 7 is 1.6 times as fast as the default and no worse here.
    bit_rate=128_000,
    codec_options={"compression_level": "7"},
    # Players stop at a Xing header's end when MP3 files are joined, and take a tag between frames for noise.
    container_options={"id3v2_version": "0", "write_xing": "0"},
)
OPUS = Recipe(
    container="ogg",
    codec="libopus",
    sample_format="s16",
    # From here on, Opus is CELT alone for speech: 2.7 times as fast as the mixed mode at 48 kbit/s, and closer.
    bit_rate=64_000,
    # Microseconds; a page leaves when it is full, and the default of a second would hold up the first sound.
    container_options={"page_duration": "100000"},
)
AAC = Recipe(
    container="adts",
    codec="aac",
    sample_format="fltp",
    bit_rate=96_000,
    # As close as the default coder at this bit rate, at a sixth of its cost.
    codec_options={"aac_coder": "fast"},
)
FLAC = Recipe(
    container="flac",
    codec="flac",
    sample_format="s16",
    # Room for tags that nobody will write.
    container_options={"metadata_header_padding": "0"},
)

FORMATS = {
    "wav": Format(content_type="audio/wav", extension="wav", encoder=WavEncoder, whole=whole_wav, light=True),
    "mp3": Format(
        content_type="audio/mpeg",
        extension="mp3",
        encoder=partial(FFmpegEncoder, MP3),
        rates=MPEG_RATES,
        # LAME's 576, and 529 of every decoder.
        delay=1105,
    ),
    "opus": Format(content_type="audio/ogg", extension="opus", encoder=partial(FFmpegEncoder, OPUS), rates=OPUS_RATES),
    "aac": Format(
        content_type="audio/aac", extension="aac", encoder=partial(FFmpegEncoder, AAC), rates=MPEG_RATES, delay=1024
    ),
    "flac": Format(content_type="audio/flac", extension="flac", encoder=partial(FFmpegEncoder, FLAC), whole=whole_flac),
    "pcm": Format(
        content_type=f"audio/pcm;rate={PCM_RATE};channels=1",
        extension="pcm",
        encoder=PcmEncoder,
        rates=(PCM_RATE,),
        light=True,
    ),
}
