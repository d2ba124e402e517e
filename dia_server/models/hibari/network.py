"""The model's graph, cut into three stages, so that what one predicts can be changed before the next one runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Names within hibari-tts 0.2.1's graph.
DURATIONS, HIDDEN, ENERGY = "/Clip_output_0", "/Transpose_55_output_0", "/Mul_62_output_0"
STAGES = (
    (("ids", "speed"), (DURATIONS, HIDDEN)),
    ((DURATIONS, HIDDEN), ("f0", ENERGY)),
    (("ids", DURATIONS, "f0", ENERGY), ("lh", "theta", "ln", "lr", "phi")),
)


class Spectra(NamedTuple):
    """601 bins of 20 Hz by frames of 12.5 ms, each of shape (601, frames).

    Attributes:
        harmonic: log magnitude of the harmonics.
        harmonic_phase: their phase, before tanh, in units of pi.
        noise: log magnitude of the noise.
        free: log magnitude of a branch with a phase of its own.
        free_phase: that phase in radians.
    """

    harmonic: Floats
    harmonic_phase: Floats
    noise: Floats
    free: Floats
    free_phase: Floats


class Network:
    """Predict durations, then F0 and energy, then spectra: chained unchanged, that is the whole graph to the bit."""

    def __init__(self, path: Path, threads: int) -> None:
        """`path` of the model's ONNX file; raises ValueError if it isn't built like hibari-tts 0.2's."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(onnx.load(path)))
        self._durations, self._melody, self._spectra = (
            onnxruntime.InferenceSession(
                extractor.extract_model(list(inputs), list(outputs)).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
            for inputs, outputs in STAGES
        )

    def durations(self, ids: list[int], speed: float) -> tuple[Floats, Floats]:
        """Whole frames of 25 ms for each id, shape (ids,), and what the next stage needs besides."""
        durations, hidden = self._durations.run(None, {"ids": _row(ids), "speed": np.asarray([speed], np.float32)})
        return durations, hidden

    def melody(self, durations: Floats, hidden: Floats) -> tuple[Floats, Floats]:
        """F0 in Hz, near 0 where there is none, and energy, one value for each frame of 12.5 ms."""
        f0, energy = self._melody.run(None, {DURATIONS: durations, HIDDEN: hidden})
        return f0[0], energy[0]

    def spectra(self, ids: list[int], durations: Floats, f0: Floats, energy: Floats) -> Spectra:
        """The spectra of the ids."""
        inputs = {"ids": _row(ids), DURATIONS: durations, "f0": f0[np.newaxis], ENERGY: energy[np.newaxis]}
        return Spectra(*(output[0] for output in self._spectra.run(None, inputs)))


def _row(ids: list[int]) -> NDArray[np.int64]:
    return np.asarray([ids], np.int64)
