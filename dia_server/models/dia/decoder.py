"""One step of the decoder for all slots: from the last row's codes to the next row's."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from dia_server.models.dia.layers import PAGE, mlp, norm, paged_attention, rotate, rotations
from dia_server.models.dia.sampling import Draw, draw_by_noise, sample
from dia_server.models.dia.slots import Slots
from dia_server.models.dia.weights import DecoderLayer, Weights


class Decoder:
    """Steps all slots; `unconditional` is per layer what cross-attention adds where there is no text, (hidden,)."""

    def __init__(self, weights: Weights, unconditional: list[Tensor], slots: Slots, draw: Draw = draw_by_noise) -> None:
        decoder = weights.architecture.decoder_config
        device = weights.device
        self._weights = weights
        self._numbers = decoder
        self._unconditional = unconditional
        self._slots = slots
        self._draw = draw
        self._cosines, self._sines = rotations(slots.positions, decoder.head_dim, decoder.theta, device)
        self._rows = torch.arange(slots.count, device=device)
        self._both = torch.arange(2 * slots.count, device=device)
        self._offsets = torch.arange(decoder.num_channels, device=device) * decoder.vocab_size
        self._delays = torch.tensor(weights.architecture.delay_pattern, device=device)

    def step(self, pages: int, text_pages: int) -> None:
        """Move all active slots on by one row; `pages` and `text_pages` have to hold all keys of every active slot."""
        conditional, unconditional = self.logits(pages, text_pages)
        slots = self._slots
        row = slots.position + 1
        ids, ends = sample(
            conditional, unconditional, slots.controls, row - slots.first, self._numbers.eos_token_id, self._draw
        )
        finite = torch.isfinite(conditional).all(-1).all(-1) & torch.isfinite(unconditional).all(-1).all(-1)
        self._advance(row, ids, ends, finite)

    def logits(self, pages: int, text_pages: int) -> tuple[Tensor, Tensor]:
        """Logits of the next row with and without text, each (slots, channels, vocabulary), float32."""
        weights, slots = self._weights, self._slots
        position = torch.cat([slots.position, slots.position])
        cosines, sines = self._cosines[position][:, None], self._sines[position][:, None]
        codes = slots.codes[self._rows, slots.position] + self._offsets
        hidden = weights.code_embedding[codes].sum(dim=1)
        hidden = torch.cat([hidden, hidden])
        for number, layer in enumerate(weights.decoder_layers):
            hidden = hidden + self._listen_to_itself(hidden, number, layer, position, cosines, sines, pages)
            hidden = hidden + self._read_text(hidden, number, layer, text_pages)
            hidden = hidden + mlp(self._norm(hidden, layer.mlp_norm), layer.gate_up, layer.down)
        logits = F.linear(self._norm(hidden, weights.decoder_norm).float(), weights.head)
        logits = logits.view(2, slots.count, self._numbers.num_channels, self._numbers.vocab_size)
        return logits[0], logits[1]

    def _listen_to_itself(
        self,
        hidden: Tensor,
        number: int,
        layer: DecoderLayer,
        position: Tensor,
        cosines: Tensor,
        sines: Tensor,
        pages: int,
    ) -> Tensor:
        slots, numbers = self._slots, self._numbers
        heads, dim = numbers.num_key_value_heads, numbers.head_dim
        mixed = F.linear(self._norm(hidden, layer.self_norm), layer.self_qkv).view(len(hidden), -1, dim)
        queries, keys, values = mixed.split([numbers.num_attention_heads, heads, heads], dim=1)
        queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        page, place = position // PAGE, position % PAGE
        slots.keys[number][page, self._both, :, place] = keys
        slots.values[number][page, self._both, :, place] = values
        heard = paged_attention(
            queries.reshape(len(hidden), heads, -1, dim),
            slots.keys[number][:pages],
            slots.values[number][:pages],
            position + 1,
        )
        return F.linear(heard.view(len(hidden), -1), layer.self_out)

    def _read_text(self, hidden: Tensor, number: int, layer: DecoderLayer, text_pages: int) -> Tensor:
        slots, numbers = self._slots, self._numbers
        heads, dim = numbers.cross_num_key_value_heads, numbers.cross_head_dim
        queries = F.linear(self._norm(hidden[: slots.count], layer.cross_norm), layer.cross_q)
        read = paged_attention(
            queries.view(slots.count, heads, -1, dim),
            slots.text_keys[number][:text_pages],
            slots.text_values[number][:text_pages],
            slots.text_lengths,
        )
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
