"""Who speaks, as Resemblyzer's speaker embeddings tell, in an environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers import judge

NAME = "speakers"
# Resemblyzer's webrtcvad imports pkg_resources, which setuptools 81 dropped. A range for torch could fetch gigabytes.
PACKAGES = ("resemblyzer==0.1.4", "torch==2.13.0", "setuptools<81", "soundfile==0.13.1")


def embed(tools: Path, clips: Sequence[bytes]) -> np.ndarray:
    """Embeddings of wav files, one line of length 1 for each.

    Args:
        tools: the folder with the programs of the environment.
        clips: some seconds of speech each.
    """
    return judge(tools, "resemblyzer_embed.py", clips)


def mean(embeddings: np.ndarray) -> np.ndarray:
    """The direction in the middle of some embeddings."""
    middle = embeddings.mean(axis=0)
    return np.asarray(middle / np.linalg.norm(middle))
