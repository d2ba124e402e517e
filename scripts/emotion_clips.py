"""Write docs/emotions.md and its clips: one sentence in each emotion of the embedded model, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.acoustics import Measures, Sound, measure
from benchmarks.common import table
from benchmarks.emotions import RATE, STRENGTHS, Voice
from dia_server.audio.encode import FORMATS
from dia_server.audio.samples import Samples
from dia_server.tasks import EMOTIONS

DOCS = Path(__file__).parent.parent / "docs"
SENTENCE = "When she opened the door, the whole family was standing in the hall."
PAGE = f"""\
# Emotions, to listen to

“{SENTENCE}”

By the embedded model's plain voice, as it is and in each emotion at {STRENGTHS[-1]:g}.
`python scripts/emotion_clips.py` writes this page and its clips, and measures the sound alone
(`scripts/benchmarks/acoustics.py`). What comes of many sentences, next to what is published, and what a listener
understands: [benchmarks.md](benchmarks.md#emotions). Where the emotions' figures come from:
`dia_server/models/hibari/emotions.py`.

{{table}}

The range is F0's standard deviation, speech the time without the pauses. Tilt is that of the voice's spectrum, and
harmonicity how far tone is above noise in it, of which breath takes. Jitter is how much F0's slope changes in 20 ms.
"""
HEAD = ("Clip", "F0 mean", "F0 range", "Speech", "Pauses", "Level", "Tilt", "Harmonicity", "Jitter")


def main() -> None:
    """Write the page and its clips."""
    voice, rows = Voice(), []
    (DOCS / "emotions").mkdir(exist_ok=True)
    for emotion in (None, *EMOTIONS):
        samples, name = voice.say(SENTENCE, emotion), emotion or "plain"
        (DOCS / "emotions" / f"{name}.mp3").write_bytes(encoded(samples))
        rows.append([f"[{name}](emotions/{name}.mp3)", *cells(measure(Sound(samples, RATE)))])
    (DOCS / "emotions.md").write_text(PAGE.format(table=table(HEAD, rows)), encoding="utf-8")


def encoded(samples: Samples) -> bytes:
    """A mp3 file."""
    encoder = FORMATS["mp3"].encoder(RATE)
    return encoder.encode(np.ascontiguousarray(samples)) + encoder.finish()


def cells(measured: Measures) -> list[str]:
    """For the table."""
    return [
        f"{2 ** (measured.pitch / 12):.0f} Hz",
        f"{measured.range:.1f} st",
        f"{measured.speech:.2f} s",
        f"{measured.pauses:.2f} s",
        f"{measured.level:.1f} dB",
        f"{measured.tilt:.1f} dB/octave",
        f"{measured.harmonicity:.1f} dB",
        f"{measured.jitter:.1f} %",
    ]


if __name__ == "__main__":
    main()
