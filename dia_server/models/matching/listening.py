"""What a recording is to the matcher: frames of sound."""

from __future__ import annotations

from dia_server.audio.loudness import levelled
from dia_server.models.matching.analysis import Frames, analyse
from dia_server.models.matching.denoising import denoised
from dia_server.models.recording import BadRecording, read_reference
from dia_server.tasks import Reference

# More is not listened to: pairing takes time and memory with the square of the length.
LONGEST_SECONDS = 30.0
# Envelopes are compared with an absolute level: 16-bit noise has to be told from speech.
LEVEL_DB = -23.0


def listen(reference: Reference, *, is_noisy: bool = False) -> tuple[Frames, bool]:
    """A recording's frames, of what is behind its noise if it `is_noisy`, and whether more was not listened to.

    Raises:
        BadRecording: it is not there, not the one that is meant, no wav file, or there is no voice in it.
    """
    samples, sample_rate = read_reference(reference)
    heard = samples[: round(LONGEST_SECONDS * sample_rate)]
    clean = denoised(heard, sample_rate) if is_noisy else heard
    frames = analyse(levelled(clean, sample_rate, LEVEL_DB), sample_rate)
    if not frames.is_voiced.any():
        raise BadRecording("There is no voice in the recording that the voice should sound like; record it anew")
    return frames, len(heard) < len(samples)
