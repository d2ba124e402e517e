"""One step of the decoder for all slots: from the last row's codes to the next row's."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from dia_server.models.dia.layers import PAGE, Angles, behind, feed, norm, paged_attention, project, rotations
from dia_server.models.dia.sampling import Draw, draw_by_noise, sample
from dia_server.models.dia.slots import TEXT_PAGE, Slots
from dia_server.models.dia.weights import DecoderLayer, Weights

Part = TypeVar("Part")


class Place(NamedTuple):
    """What all layers need to know of where the rows stand.

    Attributes:
        page: (rows,), where the new keys go; `offset` within it.
        angles: (rows, 1, head dim), cosines and sines of the rotation.
        hidden: what hides keys that don't count, as `paged_attention` wants it; `hidden_text` likewise.
    """

    page: Tensor
    offset: Tensor
    angles: Angles
    hidden: Tensor
    hidden_text: Tensor


class Decoder:
    """Steps all slots."""

    def __init__(
        self,
        weights: Weights,
        unconditional: list[Tensor],
        slots: Slots,
        draw: Draw = draw_by_noise,
        *,
        is_compiled: bool = False,
    ) -> None:
        """What is compiled are the parts whose shapes don't depend on the number of pages.

        Args:
            weights: of the model.
            unconditional: what cross-attention adds where there is no text, per layer, (hidden,).
            slots: what is stepped.
            draw: takes codes from candidates.
            is_compiled: by torch, which fuses what stands between the products.
        """
        decoder = weights.architecture.decoder_config
        device = weights.device
        self._weights = weights
        self._numbers = decoder
        self._unconditional = unconditional
        self._slots = slots
        self._draw = draw
        compiled = partial(torch.compile, fullgraph=True, dynamic=False) if is_compiled else _as_it_is
        self._project, self._feed, self._sample = compiled(project), compiled(feed), compiled(sample)
        self._angles = rotations(slots.positions, decoder.head_dim, decoder.theta, weights.code_embedding)
        self._rows = torch.arange(slots.count, device=device)
        self._both = torch.arange(2 * slots.count, device=device)
        self._offsets = torch.arange(decoder.num_channels, device=device) * decoder.vocab_size
        self._delays = torch.tensor(weights.architecture.delay_pattern, device=device)

    def step(self, pages: int, text_pages: int) -> None:
        """Move all active slots on by one row; `pages` and `text_pages` have to hold all keys of every active slot."""
        logits, slots = self.logits(pages, text_pages), self._slots
        row = slots.position + 1
        ids, ends = self._sample(
            logits[0], logits[1], slots.controls, row - slots.first, self._numbers.eos_token_id, self._draw
        )
        # One that is not a number is the largest of all, and not below infinity.
        finite = logits.abs().amax(dim=(0, 2, 3)) < torch.inf
        self._advance(row, ids, ends, finite)

    def logits(self, pages: int, text_pages: int) -> Tensor:
        """Logits of the next row with and without text, (2, slots, channels, vocabulary), float32."""
        weights, slots = self._weights, self._slots
        place = self._place(pages, text_pages)
        codes = slots.codes[self._rows, slots.position] + self._offsets
        hidden = weights.code_embedding[codes].sum(dim=1)
        hidden = torch.cat([hidden, hidden])
        for number, layer in enumerate(weights.decoder_layers):
            hidden = hidden + self._listen_to_itself(hidden, number, layer, place)
            hidden = hidden + self._read_text(hidden, number, layer, place)
            hidden = self._feed(hidden, layer.mlp_norm, self._numbers.norm_eps, layer.gate_up, layer.down)
        # In this order, few rows take a third of the time on the processor.
        logits = (weights.head @ self._norm(hidden, weights.decoder_norm).float().t()).t()
        return logits.reshape(2, slots.count, self._numbers.num_channels, self._numbers.vocab_size)

    def _place(self, pages: int, text_pages: int) -> Place:
        position = torch.cat([self._slots.position, self._slots.position])
        cosines, sines = self._angles
        return Place(
            page=position // PAGE,
            offset=position % PAGE,
            angles=(cosines[position][:, None], sines[position][:, None]),
            hidden=behind(position + 1, pages, PAGE),
            hidden_text=behind(self._slots.text_lengths, text_pages, TEXT_PAGE),
        )

    def _listen_to_itself(self, hidden: Tensor, number: int, layer: DecoderLayer, place: Place) -> Tensor:
        cache, heads, pages = self._slots.caches[number], self._numbers.num_key_value_heads, len(place.hidden)
        mixed = self._project(hidden, layer.self_norm, self._numbers.norm_eps, layer.self_qkv, place.angles, heads)
        queries, new = mixed[:, : -2 * heads].unflatten(1, (heads, -1)), mixed[:, -2 * heads :].unflatten(1, (2, -1))
        cache[:, place.page, self._both, :, place.offset] = new
        heard = paged_attention(queries, cache[0, :pages], cache[1, :pages], place.hidden)
        return F.linear(heard.view(len(hidden), -1), layer.self_out)

    def _read_text(self, hidden: Tensor, number: int, layer: DecoderLayer, place: Place) -> Tensor:
        slots, pages = self._slots, len(place.hidden_text)
        keys, values = slots.text_keys[number][:pages], slots.text_values[number][:pages]
        queries = F.linear(self._norm(hidden[: slots.count], layer.cross_norm), layer.cross_q)
        queries = queries.view(slots.count, keys.shape[2], -1, keys.shape[-1])
        read = paged_attention(queries, keys, values, place.hidden_text)
        with_text = F.linear(read.view(slots.count, -1), layer.cross_out)
        return torch.cat([with_text, self._unconditional[number].expand_as(with_text)])

    def _advance(self, row: Tensor, ids: Tensor, ends: Tensor, finite: Tensor) -> None:
        """Write the row, with what is given and what the end forces; all in place, so that a graph can replay it."""
        slots, numbers = self._slots, self._numbers
        begins = ends | (row == slots.limit)
        since = torch.where(slots.since >= 0, slots.since + 1, torch.where(begins, 0, -1))
        behind = since[:, None] - self._delays
        ids = torch.where(behind < 0, ids, torch.where(behind == 0, numbers.eos_token_id, slots.free_id))
        given = slots.codes[self._rows, row]
        ids = torch.where(given == slots.free_id, ids, given)
        active = slots.active & finite
        slots.codes[self._rows, row] = torch.where(active[:, None], ids, given)
        slots.broken.copy_(slots.active & ~finite)
        slots.since.copy_(torch.where(active, since, slots.since))
        slots.position.copy_(torch.where(active, row, slots.position))
        slots.active.copy_(active & (since < self._weights.architecture.max_delay))

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return norm(hidden, weight, self._numbers.norm_eps)


def _as_it_is(part: Part) -> Part:
    return part
