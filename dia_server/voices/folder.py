"""A folder that people edit while the server runs: each file is read again whenever it changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Generic, NamedTuple, TypeVar

# What names a voice or a prompt, and with a suffix its file.
ID_PATTERN = r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
ID_RULE = (
    "has 1 to 64 of the characters A-Z, a-z, 0-9, '.', '_' and '-', begins with a letter or digit, and has no '..'"
)

# Some file systems count time in steps of two seconds, so a younger file may change without a new time.
SETTLED_NS = 2_000_000_000

Held = TypeVar("Held")


class File(NamedTuple):
    """What tells one state of a file from another."""

    name: str
    modified_ns: int
    size: int


class Watched(Generic[Held]):
    """What the files with certain suffixes hold."""

    def __init__(self, folder: Path, suffixes: tuple[str, ...], read: Callable[[Path, File], Held]) -> None:
        """`read` gets the folder and a file in it."""
        self.folder = folder
        self._suffixes = suffixes
        self._read = read
        # What files hold that can't change any more without its showing in their `File`.
        self._settled: dict[File, Held] = {}

    def read(self) -> dict[File, Held]:
        """Every file, in alphabetical order of their names without suffix; none while there is no folder.

        Raises:
            OSError: the folder can't be read.
        """
        files = sorted(self._scan(), key=lambda file: (file.name.rpartition(".")[0], file.name))
        now, settled = time_ns(), self._settled
        found = {file: settled[file] if file in settled else self._read(self.folder, file) for file in files}
        self._settled = {file: held for file, held in found.items() if now - file.modified_ns > SETTLED_NS}
        return found

    def _scan(self) -> list[File]:
        """The regular files with the suffixes; hidden ones are the doings of editors."""
        try:
            entries = os.scandir(self.folder)
        except FileNotFoundError:
            return []
        with entries:
            meant = [e for e in entries if e.name.endswith(self._suffixes) and not e.name.startswith(".")]
            return [file for entry in meant if (file := _regular_file(entry))]


def _regular_file(entry: os.DirEntry[str]) -> File | None:
    try:
        status = entry.stat()
    except OSError:
        return None  # just deleted, or a link into nowhere
    return File(entry.name, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
