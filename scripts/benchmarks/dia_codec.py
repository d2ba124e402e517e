"""What it costs to make sound of Dia's codes, and when the first sound is there."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import Note, table
from benchmarks.dia_model import CHANNELS, CODES, FRAMES_PER_SECOND, codec, device, pair, where
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.engine import DiaEngine
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.runtime import Runtime
from dia_server.models.dia.windows import CONTEXT
from dia_server.tasks import Audio, Speak

TITLE = "Dia: sound"
MEASURED = (
    "Milliseconds that DAC takes for the windows of Dia's grid, with their context, and the seconds from a request to "
    "its first sound, full size, random weights."
)

STEADY = 64
TEXT = "The morning train to the coast leaves at half past seven, and it is hardly ever late."


def run(note: Note) -> str:
    """Measure."""
    return "\n\n".join([f"On {where()}.", *_sections(note)])


def _sections(note: Note) -> Iterator[str]:
    on_gpu, sound = device().type == "cuda", codec()
    repeats = 20 if on_gpu else 3
    rows = []
    for frames in (4, 8, 16, 32, STEADY):
        for count in (1, 8):
            note(f"{count} windows of {frames} frames")
            took = _decoded(sound, count, frames + 2 * CONTEXT, repeats)
            pace = 1000 * count * frames / FRAMES_PER_SECOND / took
            rows.append([frames, count, f"{took:.1f}", f"{pace:.2f}"])
    yield table(["frames", "windows at once", "ms", "x real time"], rows)
    dtype = torch.bfloat16
    weights, slots = pair(dtype).weights, 32 if on_gpu else 4
    engine = DiaEngine(Runtime(weights, slots), sound, _prompts(sound), "")
    for count in (1, slots):
        note(f"first sound of {count} requests")
        first, share = _first_sounds(engine, sound, count)
        yield (
            f"{count} requests at once in {slots} slots, {str(dtype).removeprefix('torch.')}: first sound after "
            f"{statistics.median(first):.2f} s (median), {max(first):.2f} s (last); DAC took {share:.0%} of that time."
        )


def _prompts(sound: Codec) -> Prompts:
    return Prompts(sound, Path(tempfile.gettempdir()), "", longest_seconds=20)


def _decoded(sound: Codec, count: int, frames: int, repeats: int) -> float:
    """Milliseconds for so many windows."""
    windows = list(np.random.default_rng(0).integers(0, CODES, (count, frames, CHANNELS)))
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        sound.decode(windows)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])


def _first_sounds(engine: DiaEngine, sound: Codec, count: int) -> tuple[list[float], float]:
    """Seconds until each request's first sound, and the share of them that DAC took."""
    for number in range(count):
        engine.admit(number, Speak(model="dia", text=TEXT, seed=number))
    decode, spent = sound.decode, 0.0

    def timed(windows: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal spent
        begun = time.perf_counter()
        try:
            return decode(windows)
        finally:
            spent += time.perf_counter() - begun

    sound.decode = timed  # type: ignore[method-assign]
    started, found = time.perf_counter(), {}
    while len(found) < count:
        for number, event in engine.step():
            if isinstance(event, Audio):
                found.setdefault(number, time.perf_counter() - started)
    took = time.perf_counter() - started
    sound.decode = decode  # type: ignore[method-assign]
    engine.close()
    return list(found.values()), spent / took
