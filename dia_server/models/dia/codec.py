"""The codec between samples and frames of codes: DAC at 44.1 kHz, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia_server.models.dia.architecture import read_dac
from dia_server.models.dia.dac import Dac
from dia_server.models.dia.delay import Codes
from dia_server.models.dia.files import check_shape
from dia_server.models.dia.transfer import Arriving, to_device
from dia_server.models.dia.weights import opened

# Frames decoded at once on a GPU: always as many windows of one length, so that the shapes, and with them the bits, are
# the same. Of the first ones, which come together, that is eight; a late one fills the GPU by itself, and mostly comes
# alone. On the processor, where more at once are hardly quicker, it is one of any length.
BATCH_FRAMES = 112

Samples = NDArray[np.float32]


class Codec:
    """Encodes prompts, decodes windows.

    Attributes:
        hop_length: samples of a frame.
        sample_rate: in Hz.
    """

    def __init__(self, dac: Dac, device: torch.device) -> None:
        """The network's tensors are on that device."""
        self._dac = dac
        self._device = device
        self._batch_frames = BATCH_FRAMES if device.type == "cuda" else 1
        # Beside the steps: a step mostly waits for memory, and DAC computes. There is none on the processor.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.hop_length = dac.architecture.hop_length
        self.sample_rate = dac.architecture.sampling_rate
        self.codebooks = dac.architecture.n_codebooks

    def encode(self, samples: Samples) -> Codes:
        """The codes of mono samples at `sample_rate`, (frames, codebooks); the last frame is filled up with silence."""
        padded = np.pad(samples, (0, -len(samples) % self.hop_length))
        with torch.cuda.stream(self._stream):
            codes = self._dac.encode(torch.from_numpy(padded).to(self._device)[None])
            found: Codes = codes[0].transpose(0, 1).cpu().numpy()
        return found

    def decode(self, windows: Sequence[Codes]) -> list[Samples]:
        """The samples of windows of codes, (frames, codebooks) each; those of one length together."""
        return self.begin(windows).samples()

    def begin(self, windows: Sequence[Codes]) -> Decoding:
        """Launch what `decode` does; on a GPU it goes on beside whatever is launched next."""
        batches: list[list[int]] = []
        by_length: dict[int, list[int]] = {}
        for number, window in enumerate(windows):
            by_length.setdefault(len(window), []).append(number)
        for length, numbers in by_length.items():
            size = max(1, self._batch_frames // length)
            batches += [numbers[first : first + size] for first in range(0, len(numbers), size)]
        with torch.cuda.stream(self._stream):
            return Decoding(batches, Arriving([self._decode([windows[each] for each in batch]) for batch in batches]))

    def _decode(self, windows: list[Codes]) -> Tensor:
        size = max(1, self._batch_frames // len(windows[0]))
        stacked = np.pad(np.stack(windows), ((0, size - len(windows)), (0, 0), (0, 0)))
        codes = to_device(torch.from_numpy(stacked), self._device).transpose(1, 2)
        return self._dac.decode(codes)


class Decoding:
    """Windows on their way to samples."""

    def __init__(self, batches: list[list[int]], sound: Arriving) -> None:
        """`batches` are the windows' numbers in the order of what arrives."""
        self._batches = batches
        self._sound = sound

    @property
    def is_done(self) -> bool:
        """Whether nobody has to wait for the samples any more."""
        return self._sound.are_here

    def samples(self) -> list[Samples]:
        """Of each window."""
        found: dict[int, Samples] = {}
        for batch, sound in zip(self._batches, self._sound.wait(), strict=True):
            found |= zip(batch, sound.numpy(), strict=False)
        return [found[number] for number in range(len(found))]


def load_codec(folder: Path, device: torch.device) -> Codec:
    """Read a DAC in the layout of transformers.

    Raises:
        ModelUnavailable: the folder has none, or one of another kind.
    """
    architecture, tensors = read_dac(folder), {}
    with opened(folder) as get:
        for name, shape in architecture.shapes().items():
            tensor = get(name)
            check_shape(name, tuple(tensor.shape), shape)
            tensors[name] = tensor.to(device, torch.float32)
    return Codec(Dac(architecture, tensors), device)
