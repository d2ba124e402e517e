"""The wav file that a program has written."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from dia_server.audio.samples import Samples

# Nine minutes, mono, in float32 at 48 kHz: no segment is as long.
MAX_BYTES = 100_000_000
# How far the samples of each type reach, and where their middle is.
SCALES = {"uint8": (128, 128), "int16": (0, 1 << 15), "int32": (0, 1 << 31), "float32": (0, 1), "float64": (0, 1)}


class BadSound(Exception):
    """It is no sound; the message says why."""


def read_sound(path: Path, sample_rate: int) -> Samples:
    """Mono samples of a wav file of whichever type.

    Raises:
        BadSound: it is not there, too large, no wav file, not whole, or of another sample rate.
    """
    if not path.is_file():
        raise BadSound("the file is not there")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadSound(f"the file has {size} bytes, allowed are {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            # It only warns of a file that ends too early; of chunks that it doesn't know too.
            warnings.simplefilter("error", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk .* not understood", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except (ValueError, OSError, EOFError, wavfile.WavFileWarning) as error:
        raise BadSound(f"the file is no whole wav file ({error})") from None
    except Exception as error:  # noqa: BLE001 - on some headers the library stumbles
        raise BadSound(f"the file is no wav file ({type(error).__name__}: {error})") from None
    if rate != sample_rate:
        raise BadSound(f"the file has {rate} Hz, and {sample_rate} Hz were promised")
    if not samples.size:
        raise BadSound("the file has no samples")
    middle, reach = SCALES[samples.dtype.name]
    floats = (samples.astype(np.float32) - np.float32(middle)) / np.float32(reach)
    mono: Samples = np.nan_to_num(floats.reshape(len(floats), -1).mean(axis=1, dtype=np.float32))
    return mono
