"""How good speech sounds, as DNSMOS tells, in an environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers import judge

NAME = "quality"
PACKAGES = (
    "speechmos==0.0.1.1",
    "librosa==0.11.0",
    "onnxruntime",
    "requests",
    "tqdm",
)


def rate(tools: Path, clips: Sequence[bytes]) -> np.ndarray:
    """DNSMOS' overall opinion of each wav file, from 1 to 5.

    Args:
        tools: the folder with the programs of the environment.
        clips: some seconds of speech each.
    """
    return judge(tools, "speechmos_rate.py", clips)
