"""Recordings as codes, encoded once and kept: some in memory, all in files."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np

from dia_server.audio.resample import Resampler
from dia_server.files import replacing
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.delay import Codes
from dia_server.models.recording import BadRecording, read_reference
from dia_server.tasks import Reference

IN_MEMORY = 64
IN_FILES = 1_000

log = logging.getLogger(__name__)


class Prompts:
    """Codes of recordings, in a folder that may be deleted at any time."""

    def __init__(self, codec: Codec, folder: Path, fingerprint: str, longest_seconds: float) -> None:
        """`fingerprint` names what else the codes depend on."""
        self._codec = codec
        self._folder = folder
        self._fingerprint = fingerprint
        self._longest_seconds = longest_seconds
        self._held: OrderedDict[str, Codes] = OrderedDict()

    def codes(self, reference: Reference) -> Codes:
        """A recording's codes, (frames, codebooks).

        Raises:
            BadRecording: it can't be read, or is too long.
        """
        key = reference.sha256
        if key not in self._held:
            path = self._folder / f"{key}-{self._fingerprint}.npy"
            kept = _read(path)
            self._held[key] = self._encode(reference, path) if kept is None else kept
            if len(self._held) > IN_MEMORY:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    def _encode(self, reference: Reference, path: Path) -> Codes:
        samples, sample_rate = read_reference(reference)
        if not len(samples):
            raise BadRecording("The voice's recording has no sound; upload its audio prompt again")
        seconds = len(samples) / sample_rate
        if seconds > self._longest_seconds:
            raise BadRecording(
                f"The voice's recording has {seconds:.0f} s, and model 'dia' takes {self._longest_seconds:.0f} s at "
                "most; cut it to the 5 to 10 s that serve it best, and its transcript with it"
            )
        resampler = Resampler(sample_rate, self._codec.sample_rate)
        codes = self._codec.encode(np.concatenate([resampler.feed(samples), resampler.finish()]))
        self._keep(path, codes)
        return codes

    def _keep(self, path: Path, codes: Codes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.save(file, codes.astype(np.int16))
            written = sorted(self._folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
            for old in written[:-IN_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the codes of a recording can't be kept: %s", error.strerror)


def _read(path: Path) -> Codes | None:
    """None for a file that is not there, or damaged."""
    try:
        # Opened here, since NumPy leaves open what it can't read.
        with path.open("rb") as file:
            return np.asarray(np.load(file, allow_pickle=False), np.int64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("the kept codes of a recording are damaged and made anew: %s", error)
        return None
