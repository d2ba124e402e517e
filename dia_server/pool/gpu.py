"""A worker's own GPU, by what its engines have loaded: nothing heavy is imported for it."""

from __future__ import annotations

import os
import sys
from typing import Any

from dia_server.pool.nvml import VISIBLE, read


def see_only(uuid: str) -> None:
    """Let this process see one GPU, or none if the UUID is empty; to be called before anything heavy is imported."""
    os.environ[VISIBLE] = uuid


def is_there() -> bool:
    """Whether this process sees a GPU."""
    return bool(os.environ.get(VISIBLE))


def memory() -> tuple[int, int]:
    """Bytes that PyTorch's tensors take on it, and bytes that PyTorch keeps for them."""
    cuda = _cuda()
    return (0, 0) if cuda is None else (cuda.memory_allocated(), cuda.memory_reserved())


def is_lost() -> bool:
    """Whether it fails whatever is asked of it: it fell off the bus, or CUDA broke down, for this process for good."""
    if not is_there():
        return False
    if read(os.environ[VISIBLE]).problem:
        return True
    cuda = _cuda()
    try:
        if cuda is not None:
            cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _cuda() -> Any:
    """`torch.cuda`, if an engine here computes with it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
