"""What makes a recording of a voice usable: sound from its start to its end, at one level, undistorted."""

from __future__ import annotations

import numpy as np

from dia_server.audio.loudness import FRAME_SECONDS, SPEECH_RANGE_DB, levelled, speech_level
from dia_server.audio.samples import Samples
from dia_server.errors import BadInput

# As loud as the embedded model speaks (EBU R 128's target).
LEVEL_DB = -23.0
# The noise of a quiet room, recorded with too little gain, lies above; speech that anyone would keep far above.
SILENCE_DB = -60.0
# Speech that is normalised to full scale touches it with one sample in ten thousand.
CLIPPED_SHARE = 0.005
FULL_SCALE = 0.985
# So much stays before the first and behind the last sound, since words fade in and out.
MARGIN_SECONDS = 0.1


def clean(samples: Samples, sample_rate: int) -> Samples:
    """The recording without the silence around it, its speech at `LEVEL_DB`; mono, `sample_rate` in Hz.

    Raises:
        BadInput: there is nearly nothing to hear, or it is clipped.
    """
    level = speech_level(samples, sample_rate)
    if level < SILENCE_DB:
        raise BadInput(
            f"The recording is nearly silent: its loudest parts have {level:.0f} dB, needed are {SILENCE_DB:.0f} dB"
        )
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    if clipped > CLIPPED_SHARE:
        raise BadInput(
            f"The recording is clipped: {clipped:.1%} of it is at full scale; record it again with less gain"
        )
    return levelled(_trimmed(samples, sample_rate), sample_rate, LEVEL_DB)


def _trimmed(samples: Samples, sample_rate: int) -> Samples:
    size = round(FRAME_SECONDS * sample_rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    heard = np.flatnonzero(power > power.max() * 10 ** (-SPEECH_RANGE_DB / 10))
    margin = round(MARGIN_SECONDS * sample_rate)
    return samples[max(0, heard[0] * size - margin) : (heard[-1] + 1) * size + margin]
