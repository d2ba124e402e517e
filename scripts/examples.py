"""Make the recordings that a new home gets in `examples/`, and what is said in them.

The embedded model speaks them in starter voices (Apache-2.0, like its weights): no person was recorded.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "dia_server" / "voices" / "examples"
SEED = 1
# By the file's name: the voice, how it is said, and what.
CLIPS = {
    "voice_01": (
        "raven",
        "",
        "The morning train was almost empty, so I took a seat by the window and watched the fields.",
    ),
    "voice_02": (
        "heron",
        "",
        "We kept the old clock in the hall, because nobody else in the house could tell the time.",
    ),
    "voice_03": (
        "jay",
        "",
        "If you follow the path along the river, you will find a bridge and a little bakery behind it.",
    ),
    "voice_04": (
        "robin",
        "",
        "Every evening he walks up the hill with his dog, whether it rains or the sun is shining.",
    ),
    "emo_happy": (
        "skylark",
        "very happy",
        "They are coming home tomorrow, all of them, and we will have a party!",
    ),
    "emo_sad": (
        "skylark",
        "very sad",
        "The house is so quiet now. I still lay the table for two.",
    ),
}


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        for name, (voice, instructions, text) in CLIPS.items():
            command = [sys.executable, "-m", "dia_server", "say", text, "--home", home, "--voice", voice]
            command += ["--seed", str(SEED), "--instructions", instructions, "-o", str(FOLDER / f"{name}.wav")]
            subprocess.run(command, check=True)
            (FOLDER / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
