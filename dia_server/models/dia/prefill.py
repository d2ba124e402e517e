"""What is computed once for a request, before its first step: the text's keys, and those of given codes.

It is done for one request at a time and padded to whole pages, so that its bits depend on the request alone, and in
slices of a layer, so that the steps of others go on between them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from dia_server.models.dia.layers import PAGE, mlp, norm, rotate, rotations
from dia_server.models.dia.slots import TEXT_PAGE, Slots, pages_of
from dia_server.models.dia.transfer import to_device
from dia_server.models.dia.weights import DecoderLayer, Weights

# Rows of given codes are padded to a multiple of so many, which divides a page.
BLOCK = 128

Result = TypeVar("Result")


class Prefill:
    """Fills slots; one request at a time.

    Attributes:
        unconditional: what cross-attention adds where there is no text, per layer, (hidden,).
    """

    def __init__(self, weights: Weights, slots: Slots) -> None:
        architecture = weights.architecture
        encoder, decoder = architecture.encoder_config, architecture.decoder_config
        device = weights.device
        self._weights = weights
        self._slots = slots
        self._text_angles = rotations(
            slots.text_pages * TEXT_PAGE, encoder.head_dim, encoder.theta, weights.code_embedding
        )
        self._angles = rotations(slots.pages * PAGE, decoder.head_dim, decoder.theta, weights.code_embedding)
        self._offsets = torch.arange(decoder.num_channels, device=device) * decoder.vocab_size
        self.unconditional = self._without_text()

    def fill(self, slot: int, text: bytes, rows: Tensor) -> Iterator[None]:
        """Put a text and rows of delayed codes, (rows, channels), into a slot; yields between slices."""
        length = pages_of(len(text), TEXT_PAGE) * TEXT_PAGE
        ids = torch.zeros(1, length, dtype=torch.long)
        ids[0, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        encoded = yield from self._encode(to_device(ids, self._weights.device), len(text))
        self._slots.text_lengths[slot] = len(text)
        hidden = self._embed(rows)
        for number, layer in enumerate(self._weights.decoder_layers):
            kept = self._keep_text(slot, number, layer, encoded[0])
            if len(rows):
                hidden = hidden + self._listen_to_itself(hidden, slot, number, layer)
                keys, values = (cache[:, : len(text)] for cache in kept)
                hidden = hidden + self._read_text(hidden, number, layer, keys, values)
                hidden = hidden + mlp(self._norm(hidden, layer.mlp_norm), layer.gate_up, layer.down)
            yield

    def _without_text(self) -> list[Tensor]:
        # The reference reads a text of zero bytes then. Its encodings are all alike, so that attention gives their
        # value whatever the query is.
        zero = torch.zeros(1, 1, dtype=torch.long, device=self._weights.device)
        encoded = finish(self._encode(zero, length=1))[0, 0]
        found = []
        for layer in self._weights.decoder_layers:
            values = F.linear(encoded, layer.cross_kv).chunk(2)[1]
            heads = self._weights.architecture.decoder_config
            groups = heads.cross_num_attention_heads // heads.cross_num_key_value_heads
            values = values.view(heads.cross_num_key_value_heads, 1, -1).expand(-1, groups, -1).reshape(-1)
            found.append(F.linear(values, layer.cross_out))
        return found

    def _encode(self, ids: Tensor, length: int) -> Generator[None, None, Tensor]:
        """The encoded text, (1, ids, hidden); what stands behind `length` is padding."""
        weights, numbers = self._weights, self._weights.architecture.encoder_config
        cosines, sines = (table[: ids.shape[1]] for table in self._text_angles)
        is_text = torch.arange(ids.shape[1], device=ids.device) < length
        hidden = weights.text_embedding[ids]
        for layer in weights.encoder_layers:
            mixed = F.linear(norm(hidden, layer.attention_norm, numbers.norm_eps), layer.qkv)
            mixed = mixed.view(1, ids.shape[1], -1, numbers.head_dim).transpose(1, 2)
            keys = numbers.num_key_value_heads
            rotate(mixed[:, :-keys], cosines, sines)
            queries, keys, values = mixed.split([numbers.num_attention_heads, keys, keys], dim=1)
            heard = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=is_text[None, None, None], scale=1.0, enable_gqa=True
            )
            hidden = hidden + F.linear(heard.transpose(1, 2).flatten(2), layer.out)
            hidden = hidden + mlp(norm(hidden, layer.mlp_norm, numbers.norm_eps), layer.gate_up, layer.down)
            yield
        return norm(hidden, weights.encoder_norm, numbers.norm_eps)

    def _embed(self, rows: Tensor) -> Tensor:
        """Given rows with and without text, (2, padded rows, hidden)."""
        padded = F.pad(rows, (0, 0, 0, pages_of(len(rows), BLOCK) * BLOCK - len(rows)))
        hidden = self._weights.code_embedding[padded + self._offsets].sum(dim=1)
        return torch.stack([hidden, hidden])

    def _keep_text(self, slot: int, number: int, layer: DecoderLayer, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention's keys and values, (heads, bytes, head dim), kept in the slot."""
        numbers = self._weights.architecture.decoder_config
        mixed = F.linear(encoded, layer.cross_kv).view(len(encoded), 2, numbers.cross_num_key_value_heads, -1)
        keys, values = mixed.permute(1, 2, 0, 3)
        for cache, kept in ((self._slots.text_keys, keys), (self._slots.text_values, values)):
            pages = kept.unflatten(1, (-1, TEXT_PAGE)).transpose(0, 1)
            cache[number][: len(pages), slot] = pages
        return keys, values

    def _listen_to_itself(self, hidden: Tensor, slot: int, number: int, layer: DecoderLayer) -> Tensor:
        numbers, slots = self._weights.architecture.decoder_config, self._slots
        count, heads = hidden.shape[1], numbers.num_key_value_heads
        cosines, sines = (table[:count] for table in self._angles)
        mixed = F.linear(self._norm(hidden, layer.self_norm), layer.self_qkv)
        mixed = mixed.view(2, count, -1, numbers.head_dim).transpose(1, 2)
        rotate(mixed[:, :-heads], cosines, sines)
        queries, keys, values = mixed.split([numbers.num_attention_heads, heads, heads], dim=1)
        place = torch.arange(count, device=hidden.device)
        for row, half in ((slot, 0), (slots.count + slot, 1)):
            slots.keys[number][place // PAGE, row, :, place % PAGE] = keys[half].transpose(0, 1)
            slots.values[number][place // PAGE, row, :, place % PAGE] = values[half].transpose(0, 1)
        heard = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=1.0, enable_gqa=True)
        return F.linear(heard.transpose(1, 2).flatten(2), layer.self_out)

    def _read_text(
        self, hidden: Tensor, number: int, layer: DecoderLayer, text_keys: Tensor, text_values: Tensor
    ) -> Tensor:
        numbers = self._weights.architecture.decoder_config
        queries = F.linear(self._norm(hidden[0], layer.cross_norm), layer.cross_q)
        queries = queries.view(len(queries), -1, numbers.cross_head_dim).transpose(0, 1)[None]
        read = F.scaled_dot_product_attention(queries, text_keys[None], text_values[None], scale=1.0, enable_gqa=True)
        with_text = F.linear(read[0].transpose(0, 1).flatten(1), layer.cross_out)
        return torch.stack([with_text, self.unconditional[number].expand_as(with_text)])

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return norm(hidden, weight, self._weights.architecture.decoder_config.norm_eps)


def finish(work: Generator[None, None, Result]) -> Result:
    """All slices at once."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        result: Result = end.value
        return result
