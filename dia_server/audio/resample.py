"""Another sample rate, while the samples come."""

from __future__ import annotations

import soxr

from dia_server.audio.samples import NO_SAMPLES, Samples


class Resampler:
    """Resamples one clip; of n samples it makes n * to_rate / from_rate, rounded.

    The joined output doesn't depend on how the input was cut.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """Rates in Hz."""
        self._stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")

    def feed(self, samples: Samples) -> Samples:
        """What `samples`, at `from_rate`, complete at `to_rate`; some milliseconds stay behind."""
        output: Samples = self._stream.resample_chunk(samples)
        return output

    def finish(self) -> Samples:
        """The rest; call it once, after the last `feed`."""
        output: Samples = self._stream.resample_chunk(NO_SAMPLES, last=True)
        return output
