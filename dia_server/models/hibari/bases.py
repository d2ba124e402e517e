"""The voices that the model was trained for: one in the package, the others to be fetched."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

from dia_server.models.protocol import Download
from dia_server.settings import Settings

BUNDLED = "heart"
LICENCE = "Apache-2.0"
# As in hibari-tts 0.2.1's voices.py.
URL = "https://huggingface.co/maureesewilliams/hibari/resolve/main/voices/"


class Base(msgspec.Struct, frozen=True):
    """A trained voice; `is_british` tells which spelling-to-sound rules it takes."""

    file: Download
    is_british: bool


class _Entry(msgspec.Struct):
    """A voice in the package's own list."""

    accent: str
    gender: str
    file: str
    bytes: int
    sha256: str
    british: bool
    bundled: bool = False


def bases() -> dict[str, Base]:
    """All trained voices by name, from the package's list; nothing of the package is imported."""
    return {name: Base(_file(name, entry), entry.british) for name, entry in _entries().items()}


def downloads(settings: Settings) -> tuple[Download, ...]:
    """The files of those that don't come with the package, whatever the settings."""
    del settings
    return tuple(base.file for name, base in bases().items() if name != BUNDLED)


def cache_folder() -> Path:
    """Where hibari-tts, and we with it, keep what can be had anew."""
    return Path(os.environ.get("HIBARI_HOME", Path.home() / ".cache" / "hibari"))


def _file(name: str, entry: _Entry) -> Download:
    return Download(
        name=name,
        description=f"{entry.accent} {entry.gender} voice",
        licence=LICENCE,
        url=URL + entry.file,
        path=(_assets() if entry.bundled else cache_folder()) / entry.file,
        size=entry.bytes,
        sha256=entry.sha256,
    )


@cache
def _assets() -> Path:
    package = find_spec("hibari")
    return Path(package.origin).parent / "assets" if package and package.origin else Path()


@cache
def _entries() -> dict[str, _Entry]:
    listing = _assets() / "voices.json"
    return msgspec.json.decode(listing.read_bytes(), type=dict[str, _Entry]) if listing.exists() else {}
