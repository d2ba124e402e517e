"""The rude program, which does what it is told by the text."""

from __future__ import annotations

from pathlib import Path

RUDE = Path(__file__).parent / "program" / "rude.py"
RATE = 16_000


def marked(path: Path) -> list[int]:
    """The processes whose numbers it wrote there."""
    return [int(number) for number in path.read_text().split()] if path.exists() else []
