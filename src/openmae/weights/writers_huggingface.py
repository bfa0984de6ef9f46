"""The folder that transformers reads: classic key names, which every version of it loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from openmae.engine.tensorfile import write_tensors
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights.writers_official import (
    Model,
    encoder_of,
    eps_of,
    heads,
    official_names,
    require_plain,
)

_INNER = (  # inside a block: official -> classic
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)


def class_name(model: Model) -> str:
    """The class of transformers that a model becomes."""
    if isinstance(model, MAE):
        return "ViTMAEForPreTraining"
    return "ViTForImageClassification" if isinstance(model, Classifier) else "ViTModel"


def hugging_face_names(model: Model) -> dict[str, Tensor]:
    """Tensors under the classic names, query, key and value apart."""
    top = "vit." if isinstance(model, MAE | Classifier) else ""
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
                out[name.replace("attn.qkv", f"attention.attention.{word}")] = part
        else:
            out[name] = tensor
    return out


def hugging_face_config(model: Model) -> dict[str, Any]:
    """config.json of ViTMAEForPreTraining, ViTModel or ViTForImageClassification."""
    encoder, (own, decoders) = encoder_of(model), heads(model)
    vit = encoder.vit
    config: dict[str, Any] = {
        "architectures": [class_name(model)],
        "model_type": "vit_mae" if isinstance(model, MAE) else "vit",
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(vit.blocks),
        "num_attention_heads": own,
        "intermediate_size": vit.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": max(eps_of(model)),
        "image_size": encoder.image_size[0],
        "patch_size": encoder.patch[0],
        "num_channels": encoder.in_chans,
        "qkv_bias": True,
    }
    if isinstance(model, Classifier):
        config["id2label"] = {str(i): name for i, name in enumerate(model.classes)}
        config["label2id"] = {name: i for i, name in enumerate(model.classes)}
        several = "multi" if model.multi_label else "single"
        config["problem_type"] = f"{several}_label_classification"
    if isinstance(model, MAE):
        block: Any = model.decoder.blocks[0]
        config |= {
            "decoder_hidden_size": model.decoder.pred.in_features,
            "decoder_num_hidden_layers": len(model.decoder.blocks),
            "decoder_num_attention_heads": decoders,
            "decoder_intermediate_size": block.mlp.fc1.out_features,
            "mask_ratio": model.mask_ratio,
            "norm_pix_loss": model.target == "norm_pixels",
        }
    return config


def require_hugging_face(model: Model) -> None:
    """Refuse what transformers' ViT and ViTMAE cannot express (UsageError)."""
    if isinstance(model, Classifier) and model.pool == "mean":
        raise UsageError(
            "transformers' ViT classifies by the class token; this one by the mean of the patches."
            " Use --to timm"
        )
    require_plain(model, "transformers' ViT")
    if len(eps_of(model)) > 1:
        raise UsageError("transformers' ViT has one epsilon for all layer norms. Use --to timm")
    if isinstance(model, MAE) and not len(model.decoder.blocks):
        raise UsageError("transformers' ViTMAE has decoder blocks, this one none. Use --to openmae")


def write_hugging_face(model: Model, out: Path) -> list[str]:
    """A folder that `from_pretrained` loads: config.json, model.safetensors, preprocessing."""
    encoder = encoder_of(model)
    height, width = encoder.image_size
    # an image processor has a factor and no offset: the low end goes into the mean
    low, high = encoder.value_range or (0.0, 255.0)
    preprocess = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / (high - low),
        "do_normalize": True,
        "image_mean": (encoder.mean.flatten() + low / (high - low)).tolist(),
        "image_std": encoder.std.flatten().tolist(),
    }
    out.mkdir()
    write_tensors(out / "model.safetensors", hugging_face_names(model).items(), {"format": "pt"})
    write_json(out / "config.json", hugging_face_config(model))
    write_json(out / "preprocessor_config.json", preprocess)
    more = ", add_pooling_layer=False" if class_name(model) == "ViTModel" else ""
    told = [f"transformers: {class_name(model)}.from_pretrained({str(out)!r}{more})"]
    if isinstance(model, MAE) and model.mask != "random":
        told.append(f"transformers masks at random; this model was made with mask {model.mask}")
    if encoder.in_chans != 3:
        told.append(f"its image processor reads colour images, not {encoder.in_chans} channels")
    return told


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
