"""What it costs to make sound of Dia's codes."""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.common import Note, table
from benchmarks.dia_model import CHANNELS, CODES, FRAMES_PER_SECOND, codec, device, where
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.windows import CONTEXT

TITLE = "Dia: sound"
MEASURED = "Milliseconds that DAC takes for the windows of Dia's grid, with their context, full size, random weights."

STEADY = 64


def run(note: Note) -> str:
    """Measure."""
    sound, repeats = codec(), 20 if device().type == "cuda" else 3
    rows = []
    for frames in (4, 8, 16, 32, STEADY):
        for count in (1, 8):
            note(f"{count} windows of {frames} frames")
            took = _decoded(sound, count, frames + 2 * CONTEXT, repeats)
            pace = 1000 * count * frames / FRAMES_PER_SECOND / took
            rows.append([frames, count, f"{took:.1f}", f"{pace:.2f}"])
    return f"On {where()}.\n\n" + table(["frames", "windows at once", "ms", "x real time"], rows)


def _decoded(sound: Codec, count: int, frames: int, repeats: int) -> float:
    """Milliseconds for so many windows."""
    windows = list(np.random.default_rng(0).integers(0, CODES, (count, frames, CHANNELS)))
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        sound.decode(windows)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])
