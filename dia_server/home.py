"""The home directory: everything that users own, and the cache, which they may delete at any time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from dia_server.blobs import FOLDER as BLOBS
from dia_server.errors import SettingsError
from dia_server.files import PART_SUFFIX
from dia_server.voices.prompts import FOLDER as PROMPTS
from dia_server.voices.store import install_examples, install_starters

# Libraries and models that would write elsewhere, and the folder of the cache that each gets instead.
CACHES = {
    "TMPDIR": "tmp",
    "HIBARI_HOME": "hibari",
    "HF_HOME": "huggingface",
    "WHISPER_HOME": "whisper",
    "DIA_CACHE": "dia",
    "DIA_HASHES": "hashes",
    "TORCHINDUCTOR_CACHE_DIR": "torch",
    "TRITON_CACHE_DIR": "triton",
}

# Libraries that would report to their makers.
SILENCED = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

# Where files and folders are written.
UNFINISHED = (
    ".", "voices", PROMPTS, BLOBS, "tasks", "outputs", "runners", "cache/tmp", "cache/previews", "cache/hibari/matches",
    "cache/hibari/manners", "cache/dia/prompts", "cache/hashes",
)  # fmt: skip
# What a process that was killed left unfinished; one that lives finishes a file in seconds, an upload in minutes.
ABANDONED_SECONDS = 3_600


def use_caches(home: Path) -> None:
    """Let libraries keep what they download in the home, and tell nobody; nothing is made there yet."""
    os.environ.update(SILENCED)
    for variable, name in CACHES.items():
        os.environ[variable] = str(home / "cache" / name)


def open_home(home: Path) -> Path:
    """Make the home ready for use: starter voices and examples on first use, and caches inside it.

    Raises:
        SettingsError: the folder can't be written to.
    """
    try:
        home = home.resolve()
        for name in CACHES.values():
            (home / "cache" / name).mkdir(parents=True, exist_ok=True)
        use_caches(home)
        tempfile.tempdir = None  # look at TMPDIR again
        install_starters(home / "voices")
        install_examples(home / "examples")
        for folder in UNFINISHED:
            _sweep(home / folder)
    except OSError as error:
        raise SettingsError(f"Can't use {home} as home: {error.strerror}; choose another with --home") from None
    return home


def _sweep(folder: Path) -> None:
    """Remove unfinished files that nobody will finish."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime < ABANDONED_SECONDS:
                continue
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink()
