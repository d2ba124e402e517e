"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Of hidden files that are being written.
PART_SUFFIX = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes `path`'s name when the block ends well and vanishes when it doesn't.

    It has the permissions of the file that it replaces.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=PART_SUFFIX, dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def temporary(folder: Path | None = None) -> Iterator[tuple[IO[bytes], Path]]:
    """A file to write to, in the cache or another folder, gone after the block; a later start sweeps what a kill left.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    if folder is None:
        # The cache may have been deleted meanwhile.
        folder = Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=PART_SUFFIX, dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Have new names in a folder outlive a power cut.

    Raises:
        OSError: the disk fails.
    """
    if os.name != "posix":
        return  # Windows can't open folders, and makes renames durable by itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        os.close(descriptor)
