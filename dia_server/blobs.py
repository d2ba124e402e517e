"""Immutable files named by the sha256 of what is in them, so that work goes on with what it began with."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dia_server.files import replacing

FOLDER = "blobs"
NEW_SECONDS = 3_600


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
        return self.put(source.read_bytes(), source.suffix)

    def put(self, data: bytes, suffix: str) -> str:
        """Keep these bytes, unless they are there and whole; their sha256.

        Raises:
            OSError: the folder can't be written to.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        copy = self.path(sha256, suffix)
        if self.renew(copy) and copy.read_bytes() == data:
            return sha256
        self._folder.mkdir(exist_ok=True)
        with replacing(copy) as file:
            file.write(data)
        return sha256

    def renew(self, path: Path) -> bool:
        """Whether a blob is there; it counts as new then, since somebody is about to refer to it."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # somebody else's, or on a disk that is read-only
        return True

    def sweep(self, sources: Iterable[Path], names: Iterable[str]) -> None:
        """Remove the blobs that have none of these names and are copies of none of these files.

        New ones stay, since another server may be about to refer to them.

        Raises:
            OSError: the folder can't be written to.
        """
        before = time.time() - NEW_SECONDS
        sizes = {}
        for path in self._folder.glob("[!.]*"):
            with suppress(FileNotFoundError):  # another server sweeps too
                status = path.stat()
                if status.st_mtime < before:
                    sizes[path] = status.st_size
        kept = set(names)
        for source in sources:
            with suppress(OSError):
                if source.stat().st_size in sizes.values():
                    kept.add(f"{hashlib.sha256(source.read_bytes()).hexdigest()}{source.suffix}")
        for path in sizes:
            if path.name not in kept:
                path.unlink(missing_ok=True)
