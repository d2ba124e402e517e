"""What was learned of recordings, kept: some in memory, all in files."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dia_server.files import replacing
from dia_server.models.matching.matcher import Match, Melody
from dia_server.models.matching.traits import Traits

# Of the way in which matches are made and written.
VERSION = 2
# 3 MB for a match of a recording of 12 s, 6 MB at most.
IN_MEMORY = 4
IN_FILES = 100
SUFFIX = ".npz"

Arrays = Mapping[str, NDArray[Any]]
Value = TypeVar("Value")

log = logging.getLogger(__name__)


class _Kept(ABC, Generic[Value]):
    """Values by key, in a folder that may be deleted at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: OrderedDict[str, Value] = OrderedDict()

    @abstractmethod
    def _pack(self, value: Value) -> Mapping[str, Any]:
        """What is written of a value."""

    @abstractmethod
    def _unpack(self, arrays: Arrays) -> Value:
        """The value that was written; KeyError, TypeError or ValueError if it wasn't."""

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is nowhere to be had; `make`'s errors pass."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        path = self._folder / f"{key}{SUFFIX}"
        value = self._read(path)
        if value is None:
            value = make()
            self._keep(path, value)
        self._held[key] = value
        if len(self._held) > IN_MEMORY:
            self._held.popitem(last=False)
        return value

    def _keep(self, path: Path, value: Value) -> None:
        """Write it down, instead of the oldest one if there are many."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez(file, allow_pickle=False, **self._pack(value))
            written = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
            for old in written[:-IN_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what was learned of a recording can't be kept: %s", error.strerror)

    def _read(self, path: Path) -> Value | None:
        """None for a file that is not there, or damaged."""
        try:
            # Opened here, since NumPy leaves open what it can't read.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return self._unpack(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            log.warning("what was kept of a recording is damaged and made anew: %s", error)
            return None


class Matches(_Kept[Match]):
    """How to speak like recordings."""

    def _pack(self, value: Match) -> Mapping[str, Any]:
        return {
            "features": value.features,
            "values": value.values,
            "melodies": np.array([value.source, value.target]),
            "pace": value.pace,
            "is_aligned": value.is_aligned,
        }

    def _unpack(self, arrays: Arrays) -> Match:
        source, target = (Melody(*map(float, melody)) for melody in arrays["melodies"])
        return Match(
            arrays["features"],
            arrays["values"],
            source,
            target,
            float(arrays["pace"]),
            bool(arrays["is_aligned"]),
        )


class AllTraits(_Kept[Traits]):
    """How recordings are said."""

    def _pack(self, value: Traits) -> Mapping[str, Any]:
        return {"traits": np.array(value)}

    def _unpack(self, arrays: Arrays) -> Traits:
        return Traits(*map(float, arrays["traits"]))
