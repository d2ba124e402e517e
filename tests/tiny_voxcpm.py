"""A tiny VoxCPM2 with random weights, as files of the real one's layout."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LM: dict[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "type": "longrope",
        "long_factor": [1.0] * 8,
        "short_factor": [1.0] * 8,
        "original_max_position_embeddings": 512,
    },
    "vocab_size": 400,
    "scale_emb": 1.0,
    "dim_model_base": 32,
    "scale_depth": 1.0,
    "rope_theta": 10_000.0,
}
PART = {"hidden_dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 1}
CONFIG: dict[str, Any] = {
    "architecture": "voxcpm2",
    "lm_config": LM,
    "patch_size": 2,
    "feat_dim": 8,
    "residual_lm_num_layers": 1,
    "scalar_quantization_latent_dim": 8,
    "encoder_config": PART,
    "dit_config": PART | {"cfm_config": {}},
    "audio_vae_config": {
        "encoder_dim": 4,
        "encoder_rates": [2, 5, 8, 8],
        "latent_dim": 8,
        "decoder_dim": 128,
        "decoder_rates": [8, 6, 5, 2, 2, 2],
        "cond_dim": 4,
    },
    "max_length": 256,
    "dtype": "float32",
}


def write_tiny_voxcpm(folder: Path) -> Path:
    """The folder, with a network whose seed is fixed."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from voxcpm.model.voxcpm2 import AudioVAEV2, VoxCPM2Model, VoxCPMConfig

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    names = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "LlamaTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")

    torch.manual_seed(0)
    config = VoxCPMConfig.model_validate(CONFIG)
    model = VoxCPM2Model(config, SimpleNamespace(vocab={}), AudioVAEV2(config=config.audio_vae_config), device="cpu")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    sound = {name: tensor for name, tensor in state.items() if name.startswith("audio_vae.")}
    save_file({name: state[name] for name in state.keys() - sound.keys()}, folder / "model.safetensors")
    plain = {name.removeprefix("audio_vae."): tensor for name, tensor in sound.items()}
    torch.save({"state_dict": plain}, folder / "audiovae.pth")
    return folder
