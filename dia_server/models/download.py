"""Fetching weights: into a temporary file, checked against their hash, then renamed into place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import HTTPException
from urllib.request import urlopen

from dia_server.errors import DownloadFailed
from dia_server.files import replacing
from dia_server.models.protocol import Download

CHUNK_BYTES = 65_536
TIMEOUT_SECONDS = 30


def fetch(download: Download, advance: Callable[[int], None]) -> None:
    """Fetch a file to its place; `advance` is told of every so many bytes.

    Raises:
        DownloadFailed: no connection, or not the file that was wanted; nothing is left behind.
    """
    digest = hashlib.sha256()
    try:
        download.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(download.path) as file, urlopen(download.url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - https
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
            if digest.hexdigest() != download.sha256:
                raise DownloadFailed(
                    f"{download.url} has changed: its sha256 is {digest.hexdigest()}, expected was {download.sha256}"
                )
    except (OSError, HTTPException) as error:
        raise DownloadFailed(
            f"Can't fetch {download.url}: {error}. Check the connection, or copy the file to {download.path} by hand"
        ) from None
