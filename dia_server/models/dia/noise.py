"""Random numbers that depend on their coordinates alone: Philox4x32-10 and the Gumbel noise made of it.

John K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11, and the Random123 library's test vectors.
All arithmetic on counters is in 64-bit integers, which every device computes alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_BITS = 32


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words of 32 bits for each counter of four words and key of two; int64 tensors that broadcast."""
    c0, c1, c2, c3 = counter
    rounds = torch.arange(ROUNDS, device=c0.device).view(-1, *[1] * key[0].dim())
    for k0, k1 in zip(key[0] + rounds * _WEYL[0], key[1] + rounds * _WEYL[1], strict=True):
        # A product may pass 2^63 and wrap; its lower 64 bits, which are all there are, stay right. Words are cut to
        # their 32 bits where those above would count: before the next product, and at the end.
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((right >> _BITS) ^ c1 ^ k0) & _WORD, right
        c2, c3 = ((left >> _BITS) ^ c3 ^ k1) & _WORD, left
    return c0, c1 & _WORD, c2, c3 & _WORD


def gumbel(seed: Tensor, attempt: Tensor, frame: Tensor, ids: Tensor) -> Tensor:
    """Gumbel noise for ids of codes.

    Args:
        seed: (slots,), 0 to 2**63-1.
        attempt: (slots,), which try of the same request this is.
        frame: (slots,), row within the request that the codes are for.
        ids: (slots, channels, candidates), of codes.

    Returns:
        float64 of the shape of `ids`: -log(-log(u)) for u uniform in (0, 1). Each number depends on its request's seed
        and attempt, its frame, its channel and its id, and on nothing else.
    """
    channels = torch.arange(ids.shape[1], device=ids.device)[None, :, None]
    words = philox(
        (ids >> 2, channels, frame[:, None, None], attempt[:, None, None]),
        ((seed & _WORD)[:, None, None], (seed >> _BITS)[:, None, None]),
    )
    lane = ids & 3
    word = torch.where(lane < 2, torch.where(lane == 0, words[0], words[1]), torch.where(lane == 2, words[2], words[3]))  # noqa: PLR2004 - the lanes of a block
    uniform = (word.double() + 0.5) * 2.0**-_BITS
    return -torch.log(-torch.log(uniform))
