"""Hashes of large files, kept for as long as nothing says that a file has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

import msgspec

from dia_server.files import replacing

# A file that changed so lately may change again within what its clock can tell apart.
SETTLED_SECONDS = 5.0

log = logging.getLogger(__name__)


class Known(msgspec.Struct, frozen=True):
    """What says that a file is unchanged, and its sha256."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str = ""


def sha256_of(path: Path, folder: Path) -> str:
    """A file's sha256, from what `folder` keeps if that is still true; the folder may be deleted at any time.

    Raises:
        OSError: the file can't be read.
    """
    path = path.resolve()
    now = _known(path, path.stat())
    kept = folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    known = _read(kept)
    if known is not None and known == msgspec.structs.replace(now, sha256=known.sha256):
        return known.sha256
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if now == _known(path, path.stat()) and time.time() - now.mtime_ns / 1e9 > SETTLED_SECONDS:
        _keep(kept, msgspec.structs.replace(now, sha256=sha256))
    return sha256


def _known(path: Path, status: os.stat_result) -> Known:
    return Known(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


def _read(kept: Path) -> Known | None:
    """None for what is not there, or damaged."""
    try:
        known = msgspec.json.decode(kept.read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError):
        return None
    return known if len(known.sha256) == hashlib.sha256().digest_size * 2 else None


def _keep(kept: Path, known: Known) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as file:
            file.write(msgspec.json.encode(known))
    except OSError as error:
        log.warning("the hash of %s can't be kept, and is made anew at each start: %s", known.path, error.strerror)
