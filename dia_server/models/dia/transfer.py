"""Copies between the processor's memory and a GPU's, for which nobody waits who doesn't need them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """What the processor has, for a device; a GPU takes it when the work that it was given before is done."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Arriving:
    """Tensors on their way to the processor, behind all that was launched in this stream before."""

    def __init__(self, tensors: list[Tensor]) -> None:
        is_cuda = any(tensor.is_cuda for tensor in tensors)
        self._tensors = [_to_host(tensor) if is_cuda else tensor for tensor in tensors]
        self._event = torch.cuda.Event() if is_cuda else None
        if self._event is not None:
            self._event.record()

    @property
    def are_here(self) -> bool:
        """Whether nobody has to wait for them any more."""
        return self._event is None or self._event.query()

    def wait(self) -> list[Tensor]:
        """The tensors, whose memory is the caller's to give back soon: it is pinned, and slow to get."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def _to_host(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
