"""How good speech sounds, as DNSMOS tells, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.wav" for number in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            file.write_bytes(clip)
        script = Path(__file__).with_name("speechmos_rate.py")
        # -P, since a benchmark beside the script is called `requests`, as a package that speechmos needs.
        output = subprocess.check_output([f"{tools}/python", "-P", str(script), *map(str, files)])
    return np.array(json.loads(output))
