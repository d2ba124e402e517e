"""The codec between samples and frames of codes: DAC at 44.1 kHz, as transformers has it.

Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", arXiv 2306.06546. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import DacConfig, DacModel

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.delay import Codes
from dia_server.models.dia.transfer import Arriving, to_device

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

    def __init__(self, model: DacModel, device: torch.device) -> None:
        self._model = model.to(device, torch.float32).eval().requires_grad_(False)
        self._device = device
        self._batch_frames = BATCH_FRAMES if device.type == "cuda" else 1
        # Beside the steps: a step mostly waits for memory, and DAC computes. There is none on the processor.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.hop_length = int(np.prod(model.config.downsampling_ratios))
        self.sample_rate = int(model.config.sampling_rate)
        self.codebooks = int(model.config.n_codebooks)

    def encode(self, samples: Samples) -> Codes:
        """The codes of mono samples at `sample_rate`, (frames, codebooks); the last frame is filled up with silence."""
        padded = np.pad(samples, (0, -len(samples) % self.hop_length))
        with torch.cuda.stream(self._stream):
            codes = self._model.encode(torch.from_numpy(padded).to(self._device)[None, None]).audio_codes
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
        samples: Tensor = self._model.decode(audio_codes=codes).audio_values
        return samples


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
    try:
        config = DacConfig.from_pretrained(folder, local_files_only=True)
        model, found = DacModel.from_pretrained(folder, config=config, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _none_in(folder, str(error)) from None
    if found["missing_keys"]:
        raise _none_in(folder, f"{len(found['missing_keys'])} of its tensors are missing")
    return Codec(model, device)


def _none_in(folder: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(f"there is no usable DAC in {folder}: {reason}")
