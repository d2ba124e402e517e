"""Immutable files named by the sha256 of what is in them, so that work goes on with what it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dia_server.files import replacing

FOLDER = "blobs"


class Blobs:
    """The blobs in a folder; may be used from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str, suffix: str) -> Path:
        """Where a blob is, or would be."""
        return self._folder / f"{sha256}{suffix}"

    def keep(self, source: Path) -> str:
        """Copy a file, unless its copy is there and whole; the copy's sha256.

        Raises:
            OSError: the file can't be read, or the folder not be written to.
        """
        data = source.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        copy = self.path(sha256, source.suffix)
        if not copy.exists() or copy.read_bytes() != data:
            self._folder.mkdir(exist_ok=True)
            with replacing(copy) as file:
                file.write(data)
        return sha256

    def sweep(self, sources: Iterable[Path]) -> None:
        """Remove the blobs that are copies of none of these files.

        Raises:
            OSError: the folder can't be written to.
        """
        blobs = [path for path in self._folder.glob("*") if not path.name.startswith(".")]
        sizes = {path.stat().st_size for path in blobs}
        kept = set()
        for source in sources:
            with suppress(OSError):
                if source.stat().st_size in sizes:
                    kept.add(f"{hashlib.sha256(source.read_bytes()).hexdigest()}{source.suffix}")
        for path in blobs:
            if path.name not in kept:
                path.unlink(missing_ok=True)
