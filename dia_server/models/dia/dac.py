"""DAC, the Descript Audio Codec: between samples and codes of residual vector quantization.

Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN", arXiv 2306.06546. Tensors have the names, and
sums the order, that they have in transformers (5.23, `modeling_dac.py`), so that codes and samples are its own to the
last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from dia_server.models.dia.architecture import DAC_DILATIONS, DacArchitecture


class Dac:
    """The network; all tensors are float32."""

    def __init__(self, architecture: DacArchitecture, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` are those that `DacArchitecture.shapes` names."""
        self.architecture = architecture
        self._tensors = tensors

    def encode(self, samples: Tensor) -> Tensor:
        """The codes of whole frames of samples: (batch, samples) to (batch, codebooks, frames)."""
        hidden = self._convolve("encoder.conv1", samples[:, None], padding=3)
        for number, stride in enumerate(self.architecture.downsampling_ratios):
            block = f"encoder.block.{number}"
            hidden = self._snake(f"{block}.snake1", self._residual(block, hidden))
            hidden = self._convolve(f"{block}.conv1", hidden, stride=stride, padding=math.ceil(stride / 2))
        residual = self._convolve("encoder.conv2", self._snake("encoder.snake1", hidden), padding=1)
        found = []
        for number in range(self.architecture.n_codebooks):
            quantizer = f"quantizer.quantizers.{number}"
            latent = self._convolve(f"{quantizer}.in_proj", residual)
            codes = self._nearest(quantizer, latent)
            # The quantized latent, but for the rounding that the reference's gradient estimator leaves.
            quantized = latent + (self._looked_up(quantizer, codes) - latent)
            residual = residual - self._convolve(f"{quantizer}.out_proj", quantized)
            found.append(codes)
        return torch.stack(found, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """The samples of codes: (batch, codebooks, frames) to (batch, samples)."""
        quantizers = [f"quantizer.quantizers.{number}" for number in range(self.architecture.n_codebooks)]
        latents = [self._looked_up(quantizer, codes[:, number]) for number, quantizer in enumerate(quantizers)]
        whole = sum(map(self._convolve, (f"{quantizer}.out_proj" for quantizer in quantizers), latents))
        hidden = self._convolve("decoder.conv1", whole, padding=3)
        for number, stride in enumerate(reversed(self.architecture.downsampling_ratios)):
            block = f"decoder.block.{number}"
            weight, bias = self._of(f"{block}.conv_t1")
            hidden = self._snake(f"{block}.snake1", hidden)
            hidden = F.conv_transpose1d(hidden, weight, bias, stride=stride, padding=math.ceil(stride / 2))
            hidden = self._residual(block, hidden)
        return self._convolve("decoder.conv2", self._snake("decoder.snake1", hidden), padding=3).tanh()[:, 0]

    def _residual(self, block: str, hidden: Tensor) -> Tensor:
        """The three residual units of a block, which look farther and farther."""
        for number, dilation in enumerate(DAC_DILATIONS, start=1):
            unit = f"{block}.res_unit{number}"
            near = self._snake(f"{unit}.snake1", hidden)
            near = self._convolve(f"{unit}.conv1", near, padding=3 * dilation, dilation=dilation)
            hidden = hidden + self._convolve(f"{unit}.conv2", self._snake(f"{unit}.snake2", near))
        return hidden

    def _snake(self, name: str, hidden: Tensor) -> Tensor:
        """x + sin²(ax) / a, with an a for each channel (Ziyin et al. 2020, arXiv 2006.08195)."""
        alpha = self._tensors[f"{name}.alpha"]
        return hidden + (alpha + 1e-9).reciprocal() * torch.sin(alpha * hidden).pow(2)

    def _nearest(self, quantizer: str, latent: Tensor) -> Tensor:
        """The entries of a codebook that point most nearly where the latent does: (batch, width, frames) to codes."""
        batch, width, _ = latent.shape
        wanted = F.normalize(latent.transpose(1, 2).reshape(-1, width))
        entries = F.normalize(self._tensors[f"{quantizer}.codebook.weight"])
        squares = wanted.pow(2).sum(1, keepdim=True)
        nearness = -(squares - 2 * wanted @ entries.t()) + entries.pow(2).sum(1, keepdim=True).t()
        return nearness.max(1)[1].reshape(batch, -1)

    def _looked_up(self, quantizer: str, codes: Tensor) -> Tensor:
        """The entries of codes, (batch, width, frames)."""
        return F.embedding(codes, self._tensors[f"{quantizer}.codebook.weight"]).transpose(1, 2)

    def _convolve(self, name: str, hidden: Tensor, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        return F.conv1d(hidden, *self._of(name), stride=stride, padding=padding, dilation=dilation)

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"]
