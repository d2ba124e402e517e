"""Faster or slower at the same pitch."""

from __future__ import annotations

import math

import av
import numpy as np
from av.filter import Graph

from dia_server.audio.samples import NO_SAMPLES, Samples

# One atempo filter takes any speed, but beyond these it skips samples where it should blend them.
STEP = 2.0
# Silence fed after the last sample: atempo drops up to 25 ms of its input when it is flushed.
TAIL_SECONDS = 0.3


class Tempo:
    """Changes the tempo of one clip; of n samples it makes n / speed, rounded.

    The output depends on how the input was cut (its low bits do): cut it always the same way.
    """

    def __init__(self, sample_rate: int, speed: float) -> None:
        """`sample_rate` in Hz; `speed` from 0.25 to 4, but not 1: 2 halves the duration."""
        self._sample_rate = sample_rate
        self._speed = speed
        self._fed = 0
        self._given = 0
        self._graph = _graph(sample_rate, speed)

    def feed(self, samples: Samples) -> Samples:
        """What `samples` complete; up to 0.3 s of input stay behind."""
        self._fed += len(samples)
        self._push(samples)
        output = self._pull()
        self._given += len(output)
        return output

    def finish(self) -> Samples:
        """The rest; call it once, after the last `feed`."""
        self._push(np.zeros(round(TAIL_SECONDS * self._sample_rate), np.float32))
        self._graph.push(None)
        return self._pull()[: round(self._fed / self._speed) - self._given]

    def _push(self, samples: Samples) -> None:
        if len(samples):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="flt", layout="mono")
            frame.sample_rate = self._sample_rate
            self._graph.push(frame)

    def _pull(self) -> Samples:
        pieces = [NO_SAMPLES]
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return np.concatenate(pieces)
            pieces.append(frame.to_ndarray().reshape(-1).view(np.float32))


def _graph(sample_rate: int, speed: float) -> Graph:
    graph = Graph()
    # By default every graph starts a thread per processor, and atempo uses none of them.
    graph.threads = 1
    steps = math.ceil(abs(math.log(speed, STEP)))
    graph.link_nodes(
        graph.add_abuffer(sample_rate=sample_rate, format="flt", layout="mono"),
        *(graph.add("atempo", repr(speed ** (1 / steps))) for _ in range(steps)),
        graph.add("abuffersink"),
    ).configure()
    return graph
