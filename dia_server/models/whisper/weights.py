"""The sizes of Whisper's weights: one in a package, the others to be fetched."""

from __future__ import annotations

import os
from pathlib import Path

from dia_server.models.protocol import Download
from dia_server.settings import Settings

# The weights that stand in where others can't be fetched.
BUNDLED = "tiny.en"

# As in openai-whisper 20250625's __init__.py.
URL = "https://openaipublic.azureedge.net/main/whisper/models/"
LICENCE = "MIT"

_LARGE = ("large-v3.pt", 3_087_371_615, "e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb")
_TURBO = ("large-v3-turbo.pt", 1_617_941_637, "aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a")
_FILES = {
    "tiny": ("tiny.pt", 75_572_083, "65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9"),
    "base.en": ("base.en.pt", 145_261_783, "25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead"),
    "base": ("base.pt", 145_262_807, "ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e"),
    "small.en": ("small.en.pt", 483_615_683, "f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872"),
    "small": ("small.pt", 483_617_219, "9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794"),
    "medium.en": ("medium.en.pt", 1_528_006_491, "d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f"),
    "medium": ("medium.pt", 1_528_008_539, "345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1"),
    "large-v1": ("large-v1.pt", 3_086_999_982, "e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a"),
    "large-v2": ("large-v2.pt", 3_086_999_982, "81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524"),
    "large-v3": _LARGE,
    "large": _LARGE,
    "large-v3-turbo": _TURBO,
    "turbo": _TURBO,
}


def folder() -> Path:
    """Where fetched weights are kept."""
    return Path(os.environ.get("WHISPER_HOME", Path.home() / ".cache" / "whisper"))


def file_of(size: str) -> Download:
    """The file of a size other than the bundled one."""
    name, length, sha256 = _FILES[size]
    return Download(
        name=size,
        description=f"Whisper's {size} weights, {'English' if is_english_only(size) else 'many languages'}",
        licence=LICENCE,
        url=f"{URL}{sha256}/{name}",
        path=folder() / name,
        size=length,
        sha256=sha256,
    )


def downloads(settings: Settings) -> tuple[Download, ...]:
    """The file of the size that the settings name, unless it is the bundled one."""
    size = settings.whisper_model_size
    return () if size == BUNDLED else (file_of(size),)


def is_english_only(size: str) -> bool:
    """Whether the weights of a size know no other language."""
    return size.endswith(".en")
