"""What was learned of recordings, kept: some in memory, all in files."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dia_server.files import replacing
from dia_server.models.matching.matcher import Match, Melody

# Of the way in which matches are made and written.
VERSION = 2
# 3 MB for a recording of 12 s, 6 MB at most.
IN_MEMORY = 4
IN_FILES = 100
SUFFIX = ".npz"

log = logging.getLogger(__name__)


class Matches:
    """Matches by key, in a folder that may be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: OrderedDict[str, Match] = OrderedDict()

    def get(self, key: str, make: Callable[[], Match]) -> Match:
        """The match of a key, made if it is nowhere to be had; `make`'s errors pass."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        path = self._folder / f"{key}{SUFFIX}"
        match = _read(path)
        if match is None:
            match = make()
            self._keep(path, match)
        self._held[key] = match
        if len(self._held) > IN_MEMORY:
            self._held.popitem(last=False)
        return match

    def _keep(self, path: Path, match: Match) -> None:
        """Write it down, instead of the oldest one if there are many."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez(
                    file,
                    features=match.features,
                    values=match.values,
                    melodies=np.array([match.source, match.target]),
                    pace=match.pace,
                    is_aligned=match.is_aligned,
                )
            written = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
            for old in written[:-IN_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what was learned of a recording can't be kept: %s", error.strerror)


def _read(path: Path) -> Match | None:
    """None for a file that is not there, or damaged."""
    try:
        # Opened here, since NumPy leaves open what it can't read.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            source, target = (Melody(*map(float, melody)) for melody in file["melodies"])
            return Match(
                file["features"], file["values"], source, target, float(file["pace"]), bool(file["is_aligned"])
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        log.warning("what was kept of a recording is damaged and made anew: %s", error)
        return None
