"""The decoder alone: what it reads, and what it refuses without reading on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dia_server.audio.encode import wav_header
from dia_server.errors import BadInput, GenerationFailed
from dia_server.models.decoder import MANIFEST, engine
from dia_server.models.registry import speaking
from dia_server.services.decoding import decode_file
from dia_server.tasks import Audio, Decode, Done, Failed
from recordings import RATE, encoded, silent_film, voice_like, wav

VOICE = voice_like(3.0)


@pytest.fixture(autouse=True)
def _no_limit_for_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "limit_cpu", lambda: None)


def decode(data: bytes, folder: Path, max_seconds: float = 60.0) -> tuple[np.ndarray, Done | Failed]:
    path = folder / "upload"
    path.write_bytes(data)
    *events, last = engine.decode(Decode(path=str(path), max_seconds=max_seconds))
    samples = [np.frombuffer(event.pcm, "<f4") for event in events if isinstance(event, Audio)]
    assert all(len(each) <= MANIFEST.sample_rate for each in samples)
    assert isinstance(last, Done | Failed)
    return np.concatenate(samples) if samples else np.zeros(0, np.float32), last


@pytest.mark.parametrize(
    ("container", "codec", "rate", "layout", "found"),
    [
        ("wav", "pcm_s16le", 22_050, "mono", "wav"),
        ("wav", "pcm_s24le", 48_000, "stereo", "wav"),
        ("wav", "pcm_f32le", 44_100, "stereo", "wav"),
        ("wav", "pcm_u8", 8_000, "mono", "wav"),
        ("mp3", "libmp3lame", 44_100, "stereo", "mp3"),
        ("flac", "flac", 96_000, "5.1", "flac"),
        ("ogg", "libopus", 48_000, "mono", "ogg"),
        ("ipod", "aac", 44_100, "stereo", "m4a"),
        ("ipod", "alac", 44_100, "stereo", "m4a"),
        ("mp4", "aac", 32_000, "mono", "m4a"),
        ("adts", "aac", 24_000, "mono", "aac"),
        ("webm", "libopus", 48_000, "stereo", "webm"),
    ],
)
def test_what_people_record_in_is_read(
    container: str, codec: str, rate: int, layout: str, found: str, tmp_path: Path
) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)).astype(np.float32)
    samples, last = decode(encoded(container, codec, tone, rate=rate, layout=layout), tmp_path)
    assert isinstance(last, Done)
    assert last.samples == len(samples) == pytest.approx(3 * RATE, abs=0.15 * RATE)
    assert last.value["format"] == found
    assert last.value["sample_rate"] in (rate, 48_000)
    middle = samples[RATE : 2 * RATE]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def forged_flac(rate: int, channels: int) -> bytes:
    data = bytearray(encoded("flac", "flac", VOICE))
    claims = int.from_bytes(data[18:26], "big") & ((1 << 41) - 1) | rate << 44 | (channels - 1) << 41
    data[18:26] = claims.to_bytes(8, "big")
    return bytes(data)


def lying_wav(size: int) -> bytes:
    whole = wav(VOICE)
    return whole[:40] + size.to_bytes(4, "little") + whole[44:]


def refusals() -> dict[str, tuple[bytes, str]]:
    flac, m4a = encoded("flac", "flac", VOICE), encoded("ipod", "aac", VOICE)
    not_a_number = np.full(RATE, np.nan, "<f4").tobytes()
    floats = wav_header(RATE, len(not_a_number))
    floats = floats[:20] + (3).to_bytes(2, "little") + floats[22:28] + (4 * RATE).to_bytes(4, "little")
    floats += (4).to_bytes(2, "little") + (32).to_bytes(2, "little") + wav_header(RATE, len(not_a_number))[36:]
    return {
        "nothing": (b"", "it is empty"),
        "text": (b"Dear reader, this is no sound at all.", "it is none of wav, flac, ogg, m4a, webm, aac, mp3"),
        "zip": (b"PK\x03\x04" + bytes(100), "none of"),
        "program": (b"\x7fELF" + bytes(100), "none of"),
        "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "none of"),
        "list": (b"ffconcat version 1.0\nfile '/etc/hostname'\n", "none of"),
        "head of wav": (b"RIFF\0\0\0\0WAVE", "damaged"),
        "cut wav": (wav(VOICE)[:100_000], "cut off"),
        "lying wav": (lying_wav(0x7FFFFFFF), "cut off"),
        "cut flac": (flac[: len(flac) // 2], "damaged"),
        "head of flac": (flac[:20], "0 Hz"),
        "cut m4a": (m4a[: len(m4a) // 2], "damaged"),
        "noise behind a tag": (b"ID3" + bytes(range(256)) * 10, "damaged"),
        "pages that are none": (b"OggS" + b"a" * 1000, "damaged"),
        "film": (silent_film(), "there is no sound in it"),
        "rate": (forged_flac(655_350, 8), "655350 Hz; allowed are 4000 to 192000"),
        "slow rate": (wav(VOICE, 1_000), "1000 Hz"),
        "no numbers": (floats + not_a_number, "no numbers"),
    }


@pytest.mark.parametrize("name", list(refusals()))
def test_what_is_refused_is_explained(name: str, tmp_path: Path) -> None:
    data, words = refusals()[name]
    _, last = decode(data, tmp_path)
    assert isinstance(last, Failed)
    assert last.is_input_wrong
    assert last.message.startswith("Failed to process audio file: ")
    assert words in last.message, last.message


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_streamed_wav_leaves_its_size_open(size: int, tmp_path: Path) -> None:
    samples, last = decode(lying_wav(size), tmp_path)
    assert isinstance(last, Done)
    assert len(samples) == len(VOICE)


def test_a_wav_that_hides_samples_has_those_that_it_promises(tmp_path: Path) -> None:
    _, last = decode(lying_wav(2 * RATE), tmp_path)
    assert isinstance(last, Done)
    assert last.samples == RATE


def test_a_bomb_ends_where_the_allowed_length_ends(tmp_path: Path) -> None:
    hour = encoded("flac", "flac", np.zeros(3_600 * 8_000, np.float32), rate=8_000)
    assert len(hour) < 1_000_000
    samples, last = decode(hour, tmp_path)
    assert isinstance(last, Failed)
    assert last.message.endswith("it is longer than 60 s")
    assert len(samples) <= 61 * RATE


def test_bytes_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "DECODED_BYTES", 100_000)
    _, last = decode(wav(VOICE), tmp_path)
    assert isinstance(last, Done)  # what may be long may be large
    monkeypatch.setattr(engine, "DECODED_BYTES_PER_SECOND", 1)
    _, last = decode(wav(VOICE), tmp_path)
    assert isinstance(last, Failed)
    assert "more than 100000 bytes" in last.message


class BrokenPool:
    """One whose decoder dies of every file."""

    @contextmanager
    def open(self, model: str) -> Iterator[BrokenPool]:
        assert model == "decoder"
        yield self

    async def run(self, task: Decode, *, urgent: bool) -> AsyncIterator[bytes]:
        assert urgent, task
        yield b""
        raise GenerationFailed("Workers die of this again and again; it was given up")


async def test_a_file_that_kills_decoders_is_the_clients_fault(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Failed to process audio file: the decoder broke down over it"):
        await decode_file(BrokenPool(), tmp_path, 60, len)  # type: ignore[arg-type]


def test_the_decoder_speaks_to_nobody() -> None:
    assert MANIFEST.name not in speaking()
