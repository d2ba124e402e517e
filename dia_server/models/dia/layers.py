"""The arithmetic that encoder and decoder share, as the reference does it (transformers 5.23, `modeling_dia.py`).

Attention has no 1/sqrt(head dim), norms and rotations are computed in float32, and the gate is the first half of the
fused projection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

# Keys are read in pages of so many.
PAGE = 256

# Cosines and sines of positions' rotations, as `rotations` gives them.
Angles = tuple[Tensor, Tensor]


def norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467)."""
    return F.rms_norm(hidden, weight.shape, weight, epsilon)


def mlp(hidden: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = F.linear(hidden, gate_up).chunk(2, dim=-1)
    return F.linear(up * F.silu(gate), down)


def project(hidden: Tensor, weight: Tensor, epsilon: float, qkv: Tensor, angles: Angles, keys: int) -> Tensor:
    """Norm, then turned queries, turned keys and values of self-attention, (rows, heads of all, head dim)."""
    mixed = F.linear(norm(hidden, weight, epsilon), qkv).view(len(hidden), -1, angles[0].shape[-1])
    rotate(mixed[:, :-keys], *angles)
    return mixed


def feed(hidden: Tensor, weight: Tensor, epsilon: float, gate_up: Tensor, down: Tensor) -> Tensor:
    """The second half of a layer."""
    return hidden + mlp(norm(hidden, weight, epsilon), gate_up, down)


def rotations(positions: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary embedding (Su et al. 2021, arXiv 2104.09864), each (positions, head_dim).

    The sines of the first half are negative, as `rotate` wants them. Computed in float32, then of `like`'s type.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=like.device) / head_dim)
    angles = torch.arange(positions, dtype=torch.float32, device=like.device)[:, None] * frequencies
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat([cosines, cosines], dim=-1).to(like.dtype), torch.cat([-sines, sines], dim=-1).to(like.dtype)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> None:
    """Turn heads by their positions' angles, in place; angles broadcast to (..., head_dim)."""
    left, right = heads.chunk(2, dim=-1)
    across = torch.cat([right, left], dim=-1) * sines
    heads.mul_(cosines).add_(across)


def behind(lengths: Tensor, pages: int, page: int) -> Tensor:
    """What hides the places behind each row's length, (pages, rows, 1, 1, page): -inf there and 0 elsewhere."""
    places = torch.arange(pages * page, device=lengths.device).view(pages, 1, 1, 1, page)
    is_behind = places >= lengths[:, None, None, None]
    return torch.zeros_like(is_behind, dtype=torch.float32).masked_fill_(is_behind, -torch.inf)


def paged_attention(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Attention of one query per row to those of the row's keys that are not hidden.

    Each page is multiplied by itself, with the same shapes however many there are, and pages are added up in their
    order; one without a key that counts adds exact zeros. So a row's result has the same bits however far others'
    caches reach, as long as all of its own keys are among the pages given.

    Args:
        queries: (rows, key heads, queries per key head, head dim).
        keys: (pages, rows, key heads, `PAGE`, head dim), contiguous; the hidden ones have to be finite.
        values: as `keys`.
        hidden: as `behind` gives it; every row needs a key that counts.

    Returns:
        As `queries`.
    """
    pages, rows, heads, page, dim = keys.shape
    group = queries.shape[2]
    flat = queries.expand(pages, *queries.shape).reshape(-1, group, dim)
    scores = torch.bmm(flat, keys.view(-1, page, dim).transpose(1, 2)).view(pages, rows, heads, group, page) + hidden
    shares = torch.exp(scores - scores.amax(dim=(0, -1), keepdim=True))
    sums = shares.sum(dim=-1, keepdim=True)
    parts = torch.bmm(shares.to(values.dtype).view(-1, group, page), values.view(-1, page, dim))
    total = parts.view(pages, rows, heads, group, dim).sum(dim=0, dtype=torch.float32)
    return torch.div(total, sums.sum(dim=0), out=torch.empty_like(total, dtype=queries.dtype))
