"""A model of ours in the form that others read: official, Hugging Face, timm, or our own file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder
from openmae.weights.encoderfile import save_encoder
from openmae.weights.methodfile import save_method

Model = MAE | Classifier | Encoder

_INNER = (  # inside a block: official -> Hugging Face, classic
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def encoder_of(model: Model) -> Encoder:
    """The encoder of any model."""
    return model if isinstance(model, Encoder) else model.encoder


def official_names(model: Model) -> dict[str, Tensor]:
    """Tensors under the official names: encoder, and decoder or head where there is one."""
    vit = encoder_of(model).vit
    out = dict(vit.state_dict())
    if isinstance(model, MAE):
        for name, tensor in model.decoder.state_dict().items():
            out[name if name == "mask_token" else f"decoder_{name}"] = tensor
    return {n: t.detach().cpu().contiguous().clone() for n, t in out.items()}


def write_official(model: Model, out: Path) -> list[str]:
    """`{"model": tensors}` as the official code reads it; .safetensors without the wrapping."""
    _require_official(model)
    tensors = official_names(model)
    if out.suffix == ".safetensors":
        save_file(tensors, out)
    else:
        torch.save({"model": tensors}, out)
    told = [f"official code builds it with {_official_call(model)}"]
    if isinstance(model, Classifier):
        told.append("names of the classes are not in this format")
    return told


def _require_official(model: Model) -> None:
    encoder = encoder_of(model)
    if encoder.vit.reg_token is not None or encoder.num_prefix_tokens != 1:
        raise UsageError(
            "the official format has one class token and no registers. Use --to openmae"
        )


def _official_call(model: Model) -> str:
    vit, (height, width) = encoder_of(model).vit, encoder_of(model).image_size
    size = str(height) if height == width else f"({height}, {width})"
    words = f"img_size={size}, patch_size={encoder_of(model).patch[0]}, embed_dim={vit.embed_dim}"
    return f"{words}, depth={len(vit.blocks)}, num_heads={vit.blocks[0].attn.num_heads}"


def hugging_face_names(model: Model) -> dict[str, Tensor]:
    """Tensors under the classic names, which every version of transformers loads."""
    top = "" if isinstance(model, Encoder) else "vit."
    out: dict[str, Tensor] = {}
    for name, tensor in official_names(model).items():
        name = re.sub(r"^blocks", f"{top}encoder.layer", name)
        name = re.sub(r"^decoder_blocks", "decoder.decoder_layers", name)
        name = re.sub(r"^(decoder_|mask_token)", r"decoder.\1", name)
        name = re.sub(r"^norm\.", f"{top}layernorm.", name)
        name = re.sub(r"^cls_token", f"{top}embeddings.cls_token", name)
        name = re.sub(r"^pos_embed", f"{top}embeddings.position_embeddings", name)
        name = re.sub(r"^patch_embed\.proj", f"{top}embeddings.patch_embeddings.projection", name)
        name = re.sub(r"^head\.", "classifier.", name)
        for ours, theirs in _INNER:
            name = name.replace(f".{ours}.", f".{theirs}.")
        if ".attn.qkv." in name:
            for part, word in zip(tensor.chunk(3), ("query", "key", "value"), strict=True):
                out[name.replace("attn.qkv", f"attention.attention.{word}")] = part.clone()
        else:
            out[name] = tensor
    return out


def hugging_face_config(model: Model) -> dict[str, Any]:
    """config.json of ViTMAEForPreTraining, ViTModel or ViTForImageClassification."""
    encoder = encoder_of(model)
    vit = encoder.vit
    config: dict[str, Any] = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": vit.blocks[0].attn.num_heads,
        "intermediate_size": vit.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": vit.blocks[0].norm1.eps,
        "image_size": encoder.image_size[0],
        "patch_size": encoder.patch[0],
        "num_channels": encoder.in_chans,
        "qkv_bias": True,
    }
    if isinstance(model, Classifier):
        names = {str(i): name for i, name in enumerate(model.classes)}
        config |= {"architectures": ["ViTForImageClassification"], "id2label": names}
        config["label2id"] = {name: int(i) for i, name in names.items()}
    if isinstance(model, MAE):
        block: Any = model.decoder.blocks[0]
        config |= {
            "architectures": ["ViTMAEForPreTraining"],
            "model_type": "vit_mae",
            "decoder_hidden_size": model.decoder.embed.out_features,
            "decoder_num_hidden_layers": len(model.decoder.blocks),
            "decoder_num_attention_heads": block.attn.num_heads,
            "decoder_intermediate_size": block.mlp.fc1.out_features,
            "mask_ratio": model.mask_ratio,
            "norm_pix_loss": model.target == "norm_pixels",
        }
    return config


def write_hugging_face(model: Model, out: Path) -> list[str]:
    """A folder that `from_pretrained` loads: config.json, model.safetensors, preprocessing."""
    encoder = encoder_of(model)
    if encoder.image_size[0] != encoder.image_size[1] or encoder.patch[0] != encoder.patch[1]:
        raise UsageError("transformers' ViT knows square images only. Use --to timm or openmae")
    if encoder.num_prefix_tokens != 1 or encoder.vit.reg_token is not None:
        raise UsageError("transformers' ViT has one class token and no registers. Use --to timm")
    if isinstance(model, Classifier) and model.pool == "mean":
        raise UsageError(
            "transformers' ViT classifies by the class token; this one by the mean of the patches."
            " Use --to timm"
        )
    out.mkdir()
    save_file(hugging_face_names(model), out / "model.safetensors", {"format": "pt"})
    height, width = encoder.image_size
    preprocess = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": encoder.mean.flatten().tolist(),
        "image_std": encoder.std.flatten().tolist(),
    }
    _write_json(out / "config.json", hugging_face_config(model))
    _write_json(out / "preprocessor_config.json", preprocess)
    kind = hugging_face_config(model)["architectures"][0]
    return [f"transformers: {kind}.from_pretrained({str(out)!r})"]


def write_timm(model: Model, out: Path) -> list[str]:
    """A folder in timm's own layout, for `timm.create_model("local-dir:OUT")`."""
    encoder = encoder_of(model)
    create = {k: v for k, v in encoder.create.items() if k not in ("model_name", "num_classes")}
    classes = model.classes if isinstance(model, Classifier) else []
    height, width = encoder.image_size
    config = {
        "architecture": encoder.create["model_name"].split(".")[0],
        "num_classes": len(classes),
        "num_features": encoder.vit.embed_dim,
        "global_pool": create.get("global_pool", "token"),
        "model_args": create,
        "pretrained_cfg": {
            "input_size": [encoder.in_chans, height, width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": encoder.mean.flatten().tolist(),
            "std": encoder.std.flatten().tolist(),
            "num_classes": len(classes),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        | ({"label_names": classes} if classes else {}),
    }
    out.mkdir()
    tensors = {
        n: t.detach().cpu().contiguous().clone() for n, t in encoder.vit.state_dict().items()
    }
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    _write_json(out / "config.json", config)
    told = [f'timm: timm.create_model("local-dir:{out}", pretrained=True)']
    return [*told, "the decoder is left out: timm has none"] if isinstance(model, MAE) else told


def write_openmae(model: Model, out: Path) -> list[str]:
    """One safetensors file: an encoder as every run has it, or the whole method."""
    if isinstance(model, Encoder):
        save_encoder(out, model, {"weights": "converted"})
    else:
        save_method(out, model)
    return [f'openmae: openmae.load("{out}"), and every command']


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Any, Path], list[str]]] = {
    "official": write_official,
    "hf": write_hugging_face,
    "timm": write_timm,
    "openmae": write_openmae,
}
"""Format -> function that writes it and returns how to use it."""


def output(model: nn.Module, images: Tensor) -> Tensor:
    """What a conversion must keep: predictions (with a fixed mask), logits or tokens."""
    with torch.inference_mode():
        if isinstance(model, MAE):
            length = model.encoder.grid[0] * model.encoder.grid[1]
            noise = torch.arange(length).expand(len(images), -1).float()
            noise = (noise * 7919) % 104729  # a fixed, scattered order
            found: Tensor = model(images, noise=noise, keep=max(1, length // 4), full=True)["pred"]
            return found
        return model.logits(images) if isinstance(model, Classifier) else model(images)
