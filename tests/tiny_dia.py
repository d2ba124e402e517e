"""A Dia and a DAC as small as they can be, with random weights, in folders as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import DacConfig, DacModel, DiaConfig, DiaForConditionalGeneration

SEED = 4
# Of transformers' own, under which a network so small repeats three codes for ever.
SPREAD = 0.15
# Makes the end of speech likely enough to be seen.
END_SPREAD = 0.25

ENCODER = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 128,
}
DECODER = ENCODER | {
    "num_key_value_heads": 2,
    "cross_num_attention_heads": 4,
    "cross_num_key_value_heads": 4,
    "cross_head_dim": 16,
    "cross_hidden_size": 64,
}


def tiny_model(seed: int = SEED) -> DiaForConditionalGeneration:
    """The network; some seeds end their sentences sooner than others."""
    torch.manual_seed(seed)
    model = DiaForConditionalGeneration(DiaConfig(encoder_config=ENCODER, decoder_config=DECODER)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=SPREAD)
        model.logits_dense.weight[1024].normal_(std=END_SPREAD)
    return model


def tiny_codec(**numbers: Any) -> DacModel:
    """The codec, with other numbers on request."""
    torch.manual_seed(SEED)
    return DacModel(DacConfig(encoder_hidden_size=8, decoder_hidden_size=64, sampling_rate=44_100, **numbers)).eval()


def mute_model() -> DiaForConditionalGeneration:
    """The network, which ends before it has said anything, whatever its dice say."""
    model = tiny_model()
    with torch.no_grad():
        # One dimension outshines all others from beginning to end, and only the end of speech looks at it.
        model.model.decoder.embeddings.embed.weight[:, 0] = 100
        model.logits_dense.weight.zero_()
        model.logits_dense.weight[1024, 0] = 1
    return model


def write_tiny_dia(folder: Path, network: DiaForConditionalGeneration | None = None) -> tuple[Path, Path]:
    """Both, in folders of their own within `folder`: the model's and the codec's."""
    model, codec = folder / "dia", folder / "dac"
    (network or tiny_model()).save_pretrained(model)
    tiny_codec().save_pretrained(codec)
    return model, codec
