"""What listeners get is what the model made: in length, pitch and waveform, and to the bit whatever the pieces."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import json
import subprocess
import sys
import threading
import wave
import weakref
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_server.audio.encode import FORMATS, wav_header, whole_wav
from dia_server.audio.pipeline import ClipRenderer
from dia_server.audio.resample import Resampler
from dia_server.audio.samples import Samples, to_int16
from dia_server.audio.tempo import Tempo
from sound import decode

RATES = (24_000, 44_100)
HEADER_BYTES = {"wav": 44, "mp3": 0, "opus": 97, "aac": 0, "flac": 60, "pcm": 0}
# Samples that a codec puts before the sound, and how many more it may put behind to fill its last frames.
PADDING = {"mp3": 2 * 1152, "aac": 2 * 1024}
# LAME makes everything 5 % softer, against clipping.
GAIN = {"mp3": 0.95}
# In dB. A scale wrong by 10 % gives 20, a delay wrong by a sample at most 24.
LEAST_SNR = {"wav": 75, "flac": 75, "pcm": 75, "opus": 25, "mp3": 28, "aac": 28}


def voice(seconds: float, rate: int) -> Samples:
    """A gliding tone with overtones up to 3 kHz, in syllables, over soft noise."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * time)) / rate
    tones = sum(np.sin(k * phase) / k for k in range(1, 16))
    noise = np.random.default_rng(5).standard_normal(len(time))
    return (0.2 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) + 0.001 * noise).astype(np.float32)


def render(samples: Samples, rate: int, speed: float, audio_format: str, cuts: Iterable[int] = ()) -> bytes:
    """The clip's bytes, its samples fed in pieces that end at `cuts`."""
    renderer = ClipRenderer(rate, speed, audio_format)
    ends = sorted({min(cut, len(samples)) for cut in cuts} | {len(samples)})
    pieces = [renderer.feed(samples[start:end].tobytes()) for start, end in itertools.pairwise([0, *ends])]
    return b"".join([*pieces, renderer.finish()])


def snr(wanted: Samples, got: Samples) -> float:
    size = min(len(wanted), len(got))
    error = wanted[:size] - got[:size]
    return float(10 * np.log10(np.sum(wanted[:size] ** 2) / (np.sum(error**2) + 1e-12)))


def frequency(samples: Samples, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return float(np.argmax(spectrum) * rate / (8 * len(samples)))


def test_formats() -> None:
    assert {name: (kind.content_type, kind.extension) for name, kind in FORMATS.items()} == {
        "wav": ("audio/wav", "wav"),
        "mp3": ("audio/mpeg", "mp3"),
        "opus": ("audio/ogg", "opus"),
        "aac": ("audio/aac", "aac"),
        "flac": ("audio/flac", "flac"),
        "pcm": ("audio/pcm;rate=24000;channels=1", "pcm"),
    }


@pytest.mark.parametrize(
    ("audio_format", "rates"),
    [
        ("wav", {8_000: 8_000, 24_000: 24_000, 44_100: 44_100}),
        ("flac", {8_000: 8_000, 24_000: 24_000, 44_100: 44_100}),
        ("mp3", {8_000: 16_000, 24_000: 24_000, 44_100: 44_100}),
        ("aac", {8_000: 16_000, 24_000: 24_000, 44_100: 44_100}),
        ("opus", {8_000: 8_000, 22_050: 24_000, 24_000: 24_000, 44_100: 48_000, 96_000: 48_000}),
        ("pcm", {8_000: 24_000, 24_000: 24_000, 44_100: 24_000}),
    ],
)
def test_rates(audio_format: str, rates: dict[int, int]) -> None:
    assert {rate: FORMATS[audio_format].rate_for(rate) for rate in rates} == rates


def test_16_bits() -> None:
    samples = np.array([0, 1, -1, 1.5, -7, 0.6 / 32767, -0.6 / 32767, 0.4 / 32767, 0.5], np.float32)
    assert to_int16(samples).tolist() == [0, 32767, -32767, 32767, -32767, 1, -1, 0, 16384]


@pytest.mark.parametrize("rate", [8_000, 16_000, *RATES])
@pytest.mark.parametrize("audio_format", FORMATS)
def test_decodes_to_the_same_sound(audio_format: str, rate: int) -> None:
    samples = voice(1.7, rate)
    decoded, got_rate = decode(render(samples, rate, 1.0, audio_format), audio_format)

    # Opus is always decoded at 48 kHz, whatever rate went in.
    assert got_rate == (48_000 if audio_format == "opus" else FORMATS[audio_format].rate_for(rate))
    wanted = samples if got_rate == rate else soxr.resample(samples, rate, got_rate)
    delay = FORMATS[audio_format].delay
    slack = PADDING.get(audio_format, 1)
    assert -1 <= len(decoded) - len(wanted) - delay <= slack
    assert snr(wanted * GAIN.get(audio_format, 1), decoded[delay:]) > LEAST_SNR[audio_format]


@pytest.mark.parametrize("rate", RATES)
def test_streamed_wav(rate: int) -> None:
    samples = voice(0.3, rate)
    stream = render(samples, rate, 1.0, "wav")

    assert stream[:44] == wav_header(rate)
    assert stream[4:8] == stream[40:44] == b"\xff" * 4
    assert stream[44:] == to_int16(samples).astype("<i2").tobytes()
    with wave.open(io.BytesIO(stream)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (rate, 1, 2)
        assert file.readframes(len(samples)) == stream[44:]


@pytest.mark.parametrize("rate", RATES)
def test_whole_wav(rate: int) -> None:
    samples = voice(0.3, rate)
    expected = io.BytesIO()
    with wave.open(expected, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(to_int16(samples).astype("<i2").tobytes())

    assert whole_wav(render(samples, rate, 1.0, "wav")) == expected.getvalue()
    assert FORMATS["wav"].whole is whole_wav
    assert wav_header(rate, 2 * len(samples)) == expected.getvalue()[:44]


@pytest.mark.parametrize("rate", RATES)
def test_whole_flac(rate: int) -> None:
    samples = voice(1.3, rate)
    stream = render(samples, rate, 1.0, "flac")
    whole = FORMATS["flac"].whole(stream)

    assert stream[42] & 0x80, "the comment is the last block before the frames: no padding"
    for data, wanted in ((stream, None), (whole, len(samples))):
        with av.open(io.BytesIO(data)) as container:
            assert container.streams.audio[0].duration == wanted
        assert np.array_equal(decode(data, "flac")[0] * 32768, to_int16(samples))
    assert FORMATS["flac"].whole(b"") == b""


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "pcm"])
def test_other_formats_are_streams_already(audio_format: str) -> None:
    assert FORMATS[audio_format].whole(b"stream") == b"stream"


@pytest.mark.parametrize("rate", RATES)
def test_mp3_is_frames_only(rate: int) -> None:
    data = render(voice(1, rate), rate, 1.0, "mp3")
    bit_rates = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2, layer 3
    if rate > 24_000:
        bit_rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    position = frames = 0
    while position < len(data):
        assert data[position] == 0xFF
        assert data[position + 1] == (0xF3 if rate <= 24_000 else 0xFB)
        frame_samples = 576 if rate <= 24_000 else 1152
        padding = data[position + 2] >> 1 & 1
        position += frame_samples // 8 * 1000 * bit_rates[data[position + 2] >> 4] // rate + padding
        frames += 1
    assert position == len(data)
    assert frames > 30
    assert not any(mark in data for mark in (b"ID3", b"TAG", b"Xing", b"Info", b"VBRI"))


def test_joined_mp3s_play_on() -> None:
    samples = voice(0.5, 24_000)
    once = render(samples, 24_000, 1.0, "mp3")
    decoded, _ = decode(once + once, "mp3")
    assert len(decoded) > 2 * len(samples)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_no_versions_within(audio_format: str) -> None:
    data = render(voice(0.3, 24_000), 24_000, 1.0, audio_format)
    assert b"Lavf" not in data
    assert b"Lavc" not in data


def digests() -> dict[str, str]:
    return {
        f"{name} {rate} {speed}": hashlib.sha256(render(voice(0.5, rate), rate, speed, name)).hexdigest()
        for name in FORMATS
        for rate in RATES
        for speed in (1.0, 1.3)
    }


def test_same_bytes_in_another_process() -> None:
    here = Path(__file__)
    code = f"import sys, json; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as t; "
    code += "print(json.dumps(t.digests()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == digests()


@pytest.mark.parametrize("speed", [1.0, 0.4, 1.7])
@pytest.mark.parametrize(("audio_format", "rate"), [*((name, 24_000) for name in FORMATS), ("opus", 44_100)])
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 12_000), max_size=12))
def test_bytes_do_not_depend_on_cuts(audio_format: str, rate: int, speed: float, cuts: list[int]) -> None:
    samples = voice(11_111 / rate, rate)
    assert render(samples, rate, speed, audio_format, cuts) == render(samples, rate, speed, audio_format)


@pytest.mark.parametrize("audio_format", FORMATS)
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(1, 60_000), min_size=1, max_size=6))
def test_encoders_alone_do_not_depend_on_cuts(audio_format: str, cuts: list[int]) -> None:
    samples = voice(2.5, 24_000)
    pieces = [samples[start:end] for start, end in itertools.pairwise([0, *sorted(set(cuts)), len(samples)])]
    cut, uncut = FORMATS[audio_format].encoder(24_000), FORMATS[audio_format].encoder(24_000)
    joined = b"".join([*map(cut.encode, pieces), cut.finish()])
    assert joined == uncut.encode(samples) + uncut.finish()


@pytest.mark.parametrize("rates", [(44_100, 24_000), (44_100, 48_000), (16_000, 24_000)])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 9_000), max_size=8), size=st.integers(0, 9_000))
def test_resampler(rates: tuple[int, int], cuts: list[int], size: int) -> None:
    samples = voice(size / rates[0], rates[0])
    stream = Resampler(*rates)
    ends = [*sorted(min(cut, size) for cut in cuts), size]
    output = np.concatenate(
        [*(stream.feed(samples[start:end]) for start, end in itertools.pairwise([0, *ends])), stream.finish()]
    )
    assert abs(len(output) - size * rates[1] / rates[0]) <= 0.5
    if size:
        assert np.array_equal(output, soxr.resample(samples, *rates))


def stretch(samples: Samples, rate: int, speed: float) -> Samples:
    tempo = Tempo(rate, speed)
    pieces = [tempo.feed(samples[start : start + 2400]) for start in range(0, len(samples), 2400)]
    return np.concatenate([*pieces, tempo.finish()])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("speed", [0.25, 0.5, 0.8, 1.01, 1.5, 2, 2.7, 4])
def test_tempo_keeps_the_pitch(speed: float, rate: int) -> None:
    time = np.arange(2 * rate + 1234) / rate
    samples = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    output = stretch(samples, rate, speed)

    assert len(output) == round(len(samples) / speed)
    assert frequency(output, rate) == pytest.approx(440, rel=0.01)
    # It sounds evenly, without gaps, up to the last 0.03 s.
    size = rate // 100
    loudness = np.sqrt(np.mean(output[: len(output) // size * size].reshape(-1, size) ** 2, axis=1))
    assert loudness[:-3].min() > 0.25
    assert loudness.max() < 0.45


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 9_000), speed=st.floats(0.25, 4).filter(lambda speed: speed != 1))
def test_tempo_is_exact_in_length(size: int, speed: float) -> None:
    assert len(stretch(voice(size / 24_000, 24_000), 24_000, speed)) == round(size / speed)


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("speed", [0.5, 2])
def test_speed_in_every_format(audio_format: str, speed: float) -> None:
    samples = voice(1, 24_000)
    decoded, rate = decode(render(samples, 24_000, speed, audio_format), audio_format)
    extra = FORMATS[audio_format].delay + PADDING.get(audio_format, 1)
    assert -1 <= len(decoded) - rate / speed <= extra


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_nothing_fed(audio_format: str, speed: float) -> None:
    renderer = ClipRenderer(44_100, speed, audio_format)
    data = renderer.feed(b"") + renderer.finish()
    assert renderer.seconds == 0
    if audio_format == "wav":
        with wave.open(io.BytesIO(whole_wav(data))) as file:
            assert file.getnframes() == 0
    else:
        assert data == b""


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_single_sample(audio_format: str) -> None:
    decoded, _ = decode(render(np.full(1, 0.5, np.float32), 24_000, 1.0, audio_format), audio_format)
    assert len(decoded) >= 1


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("audio_format", FORMATS)
def test_first_bytes_come_early(audio_format: str, rate: int) -> None:
    renderer = ClipRenderer(rate, 1.0, audio_format)
    data = renderer.feed(voice(0.25, rate).tobytes())
    assert len(data) > HEADER_BYTES[audio_format]
    # From then on, no more than 0.3 s stay behind.
    data += renderer.feed(voice(1, rate).tobytes())
    decoded, got_rate = decode(data, audio_format)
    assert len(decoded) / got_rate > 0.95


def test_seconds() -> None:
    renderer = ClipRenderer(24_000, 2.0, "mp3")
    renderer.feed(bytes(4 * 1000))
    assert renderer.seconds == pytest.approx(1000 / 48_000)
    renderer.feed(bytes(4 * 23_000))
    renderer.finish()
    assert renderer.seconds == pytest.approx(0.5)


def test_part_of_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="7 bytes"):
        ClipRenderer(24_000, 1.0, "wav").feed(bytes(7))


@pytest.mark.parametrize("audio_format", FORMATS)
def test_an_abandoned_clip_goes_quietly(audio_format: str) -> None:
    renderer = ClipRenderer(24_000, 1.5, audio_format)
    renderer.feed(voice(0.5, 24_000).tobytes())
    gone = weakref.ref(renderer)
    # What a finaliser raises is a warning, and those fail tests here.
    del renderer
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("audio_format", FORMATS)
def test_no_threads_of_its_own(audio_format: str) -> None:
    tasks = Path("/proc/self/task")
    # Those of earlier tests may end meanwhile.
    before = set(tasks.iterdir())
    renderer = ClipRenderer(44_100, 1.5, audio_format)
    renderer.feed(voice(1, 44_100).tobytes())
    assert set(tasks.iterdir()) <= before


def test_from_changing_threads() -> None:
    samples = voice(1, 24_000)
    renderer, pieces = ClipRenderer(24_000, 1.3, "mp3"), []
    for block in np.array_split(samples, 5):
        thread = threading.Thread(target=lambda block=block: pieces.append(renderer.feed(block.tobytes())))
        thread.start()
        thread.join()
    assert b"".join([*pieces, renderer.finish()]) == render(samples, 24_000, 1.3, "mp3")


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "aac", "flac"])
def test_a_clip_given_up_half_way_leaves_no_memory_behind(audio_format: str) -> None:
    pcm = np.zeros(4_800, np.float32).tobytes()

    def give_up(times: int) -> int:
        for _ in range(times):
            ClipRenderer(24_000, 1.0, audio_format).feed(pcm)
        return psutil.Process().memory_info().rss

    before = give_up(100)
    # FFmpeg's muxer for mp3 once kept 10 kB of each.
    assert give_up(400) - before < 400 * 4000
