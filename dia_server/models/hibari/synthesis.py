"""From spectra to sound: hibari.dsp.synth with noise that costs a sixth."""

from __future__ import annotations

import numpy as np
from hibari import dsp

from dia_server.audio.samples import Samples
from dia_server.models.hibari.network import Floats, Spectra

# Noise of random phase, of the mean power that a complex normal variable of two unit variances has. Four frames and
# many bins add up in every sample, so it is as normal as if each bin were; drawing those took a seventh of all time.
_PHASORS = (np.sqrt(2) * np.exp(2j * np.pi * np.arange(2**16) / 2**16)).astype(np.complex64)


def synthesize(spectra: Spectra, f0: Floats, noise: np.random.Generator) -> Samples:
    """The sound of the spectra at 24 kHz, 300 samples a frame; `f0` in Hz, 0 without a voice."""
    mixed = dsp.stft(dsp.pulses(f0), spectra.harmonic.shape[1])
    mixed *= _turned(dsp.ex(spectra.harmonic), np.float32(np.pi) * np.tanh(spectra.harmonic_phase))
    drawn = np.frombuffer(noise.bytes(2 * spectra.noise.size), np.uint16).reshape(spectra.noise.shape)
    mixed += _PHASORS[drawn] * dsp.ex(spectra.noise)
    mixed += _turned(dsp.ex(spectra.free), spectra.free_phase)
    samples: Samples = dsp.ola(mixed)
    return samples


def _turned(magnitude: Floats, phase: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.complex64]]:
    turned = np.empty(magnitude.shape, np.complex64)
    np.cos(phase, out=turned.real)
    np.sin(phase, out=turned.imag)
    turned *= magnitude
    return turned
