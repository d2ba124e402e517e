"""The recordings in `data/`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from dia_server.audio.recording import clean
from dia_server.voices.prompts import SAMPLE_RATE
from sound import decode

DATA = Path(__file__).parent / "data"


class Recording(NamedTuple):
    """A file as somebody would upload it, and what is said in it."""

    file: bytes
    transcript: str

    @property
    def samples(self) -> np.ndarray:
        """As the server keeps it."""
        samples, rate = decode(self.file, "flac")
        return clean(soxr.resample(samples, rate, SAMPLE_RATE), SAMPLE_RATE)


def recording(name: str) -> Recording:
    """`slt` is a woman, `rms` and `awb` are men."""
    return Recording((DATA / f"{name}.flac").read_bytes(), (DATA / f"{name}.txt").read_text(encoding="utf-8").strip())
