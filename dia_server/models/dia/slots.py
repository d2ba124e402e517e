"""The state of all requests that are being spoken: a fixed number of slots, every tensor of a fixed shape.

Each step computes all slots, taken or not, so that a request's bits don't depend on who is in the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dia_server.models.dia.architecture import Architecture
from dia_server.models.dia.layers import PAGE
from dia_server.models.dia.memory import slot_bytes
from dia_server.models.dia.sampling import Controls

# Bytes of text in a page: short texts are common, and all pages are read at every step.
TEXT_PAGE = 64


def pages_of(length: int, page: int) -> int:
    """How many pages so many keys take."""
    return -(-length // page)


class Slots:
    """Caches and counters, on the device.

    Rows of a cache are slots with their text, then the same slots without it (unconditional).

    Attributes:
        pages: of keys that a slot has; `text_pages` of its text.
        text_sizes: the numbers of pages of text that steps are made for, few, as each takes a graph.
        caches: keys and values of self-attention, per layer (2, pages, 2 * slots, key heads, `PAGE`, head dim).
        keys: the keys among them, per layer; `values` likewise.
        text_keys: of cross-attention, per layer (pages, slots, heads, `TEXT_PAGE`, head dim); `text_values` likewise.
        text_lengths: (slots,), bytes of each text.
        codes: (slots, positions + 1, channels); the pad id is what is still free, anything else is given.
        position: (slots,), index of the last row that is known.
        first: (slots,), index of the first row that was not given whole.
        limit: (slots,), number of rows at which the end is forced.
        since: (slots,), rows since the end began; -1 before.
        active: (slots,), whether the step moves it on.
        broken: (slots,), the last step's logits were not finite.
    """

    def __init__(self, architecture: Architecture, count: int, device: torch.device, dtype: torch.dtype) -> None:
        encoder, decoder = architecture.encoder_config, architecture.decoder_config
        self.count = count
        self.free_id = decoder.pad_token_id
        self.positions = decoder.max_position_embeddings
        self.text_positions = encoder.max_position_embeddings
        self.pages, self.text_pages = pages_of(self.positions, PAGE), pages_of(self.text_positions, TEXT_PAGE)
        self.text_sizes = [*(1 << power for power in range((self.text_pages - 1).bit_length())), self.text_pages]
        rows = (2, self.pages, 2 * count, decoder.num_key_value_heads, PAGE, decoder.head_dim)
        text = (self.text_pages, count, decoder.cross_num_key_value_heads, TEXT_PAGE, decoder.cross_head_dim)

        def caches(shape: tuple[int, ...]) -> list[Tensor]:
            # Zeros, since what a mask hides is still multiplied by nought.
            return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(decoder.num_hidden_layers)]

        self.caches = caches(rows)
        self.keys, self.values = ([cache[half] for cache in self.caches] for half in range(2))
        self.text_keys, self.text_values = caches(text), caches(text)

        def counters(value: int) -> Tensor:
            return torch.full((count,), value, dtype=torch.long, device=device)

        self.text_lengths = counters(1)
        shape = (count, self.positions + 1, decoder.num_channels)
        self.codes = torch.full(shape, self.free_id, dtype=torch.long, device=device)
        self.codes[:, 0] = decoder.bos_token_id
        self.position, self.first, self.limit = counters(0), counters(0), counters(self.positions)
        self.since = counters(-1)
        self.active = torch.zeros(count, dtype=torch.bool, device=device)
        self.broken = torch.zeros_like(self.active)
        self.controls = Controls.empty(count, device)

    @staticmethod
    def bytes_each(architecture: Architecture, dtype: torch.dtype) -> int:
        """Memory that one slot takes."""
        encoder, decoder = architecture.encoder_config, architecture.decoder_config
        rows = pages_of(decoder.max_position_embeddings, PAGE) * PAGE
        text = pages_of(encoder.max_position_embeddings, TEXT_PAGE) * TEXT_PAGE
        return slot_bytes(decoder, rows, text, dtype.itemsize)

    def clear(self, slot: int) -> None:
        """Forget numbers that are not finite, which no mask hides: nought times infinity is not nought."""
        for cache in self.caches:
            cache[:, :, slot :: self.count] = 0
        for cache in (*self.text_keys, *self.text_values):
            cache[:, slot] = 0
