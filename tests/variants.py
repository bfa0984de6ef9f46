"""One tiny masked autoencoder in the key names of everybody, written by hand from the published
tables of names.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

import openmae
from openmae.methods.classify import Classifier

SIZES = {
    "encoder": "vit_base_patch16_224",
    "image_size": 32,
    "patch_size": 8,
    "encoder_args": {"embed_dim": 192, "depth": 2, "num_heads": 3},
}


def model(seed: int = 0, target: str = "norm_pixels") -> openmae.MAE:
    """A model whose every weight is random, positions, biases and norms as well."""
    made = openmae.MAE(**SIZES, decoder_dim=64, decoder_depth=2, target=target)
    return scramble(made, seed)


def classifier(pool: str = "mean", classes: int = 3) -> Classifier:
    made = Classifier(**SIZES, classes=[str(i) for i in range(classes)], pool=pool)
    return scramble(made, 1)


def scramble(made, seed: int):
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(0.1 * noise + (parameter.ndim == 1))
    return made.eval()


def official(made) -> dict[str, Tensor]:
    """The names of the official repository."""
    out = {}
    for name, tensor in made.state_dict().items():
        if name.endswith((".mean", ".std")):
            continue
        name = name.removeprefix("encoder.vit.")
        out[re.sub(r"^decoder\.(?!mask_token)", "decoder_", name).removeprefix("decoder.")] = tensor
    return out


def hugging_face(made, new: bool = False, mangled: bool = False) -> dict[str, Tensor]:
    """Classic names, those of 5.x in memory, or those that 5.18 to 5.23 write."""
    out = {}
    layer = "vit.layers" if new else "vit.encoder.layer"
    decoder = "decoder.decoder_encoder.layer" if mangled else "decoder.decoder_layers"
    inner = (
        [("attn.proj", "attention.o_proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
        if new
        else [
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ]
    )
    qkv = ("q_proj", "k_proj", "v_proj") if new else ("query", "key", "value")
    middle = "attention" if new else "attention.attention"
    for name, tensor in official(made).items():
        name = re.sub(r"^blocks", layer, name)
        name = re.sub(r"^decoder_blocks", decoder, name)
        name = re.sub(r"^(decoder_\w+|mask_token)", r"decoder.\1", name)
        name = name.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
        name = re.sub(r"^norm\.", "vit.layernorm.", name)
        name = re.sub(r"^cls_token", "vit.embeddings.cls_token", name)
        name = re.sub(r"^pos_embed", "vit.embeddings.position_embeddings", name)
        name = re.sub(r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection", name)
        for ours, theirs in inner:
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, word in zip(tensor.chunk(3), qkv, strict=True):
                out[name.replace("attn.qkv", f"{middle}.{word}")] = part.clone()
        else:
            out[name] = tensor
    return out


def mmpretrain(made) -> dict[str, Tensor]:
    out = {}
    for name, tensor in official(made).items():
        decoder = name.startswith(("decoder_", "mask_token"))
        name = re.sub(r"^decoder_norm", "ln1", name)
        if not decoder:
            name = re.sub(r"^blocks", "layers", name).replace(
                "patch_embed.proj", "patch_embed.projection"
            )
            name = re.sub(r"^norm\.", "ln1.", name)
        name = name.replace("norm1", "ln1").replace("norm2", "ln2")
        name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        out[("neck." if decoder else "backbone.") + name] = tensor
    return out


def lightly(made) -> dict[str, Tensor]:
    return {
        ("decoder." if n.startswith(("decoder_", "mask_token")) else "backbone.vit.") + n: t
        for n, t in official(made).items()
    }
