"""The official format, and what a model must be to fit a format of plain vision transformers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.engine.tensorfile import write_tensors
from openmae.errors import UsageError
from openmae.methods.base import Base
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.methods.maeparts import fusion_of
from openmae.models.decoder import Decoder
from openmae.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from openmae.models.groups import refuse_groups
from openmae.weights.foreign import HEADS

Model = MAE | Classifier | Encoder

_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


def encoder_of(model: Model) -> Encoder:
    """The encoder of any model."""
    if isinstance(model, Encoder):
        return model
    return model.trained_encoder() if isinstance(model, Base) else model.encoder


def eps_of(model: nn.Module) -> set[float]:
    """The epsilons of the layer norms."""
    return {layer.eps for layer in model.modules() if isinstance(layer, nn.LayerNorm)}


def official_names(model: Model) -> dict[str, Tensor]:
    """Tensors under the official names: encoder, and decoder or head where there is one."""
    out = dict(encoder_of(model).vit.state_dict())
    if isinstance(model, MAE):
        for name, tensor in model.decoder.state_dict().items():
            out[name if name == "mask_token" else f"decoder_{name}"] = tensor
    return {n: t.detach().cpu().contiguous() for n, t in out.items()}


def require_plain(model: Model, reader: str) -> None:
    """Refuse a model that a reader of plain vision transformers cannot express.

    Raises:
        UsageError: the reason, and the format that can.
    """
    refuse_groups(encoder_of(model), reader)
    reason = _not_plain(model)
    if reason is not None:
        other = "--to openmae" if isinstance(model, MAE) else "--to timm or --to openmae"
        raise UsageError(f"{reader} {reason}. Use {other}")


def _not_plain(model: Model) -> str | None:
    encoder = encoder_of(model)
    vit, (height, width), (p, q) = encoder.vit, encoder.image_size, encoder.patch
    if isinstance(model, MAE) and type(model.decoder) is not Decoder:
        inside = model.mask_token is not None
        own = "mask tokens in the decoder" if inside else "a decoder with self-attention"
        return f"has {own}, unlike this model"
    if isinstance(model, MAE) and fusion_of(model.decoder) is not None:
        return "has a decoder that reads the last block alone, unlike this model"
    if vit.reg_token is not None or vit.cls_token is None:
        return "has one class token and no registers, unlike this model"
    if height != width or p != q:
        return f"knows square images and patches only; these are {height}x{width} and {p}x{q} px"
    if isinstance(model, MAE) and model.target not in ("pixels", "norm_pixels"):
        return f"predicts pixels, this model {model.target}"
    odd = sorted(_expected(model) ^ official_names(model).keys())
    if odd:
        return f"has another architecture: they differ in {odd[0]} ({len(odd)} tensors in all)"
    if vit.pos_embed.shape[1] != encoder.grid[0] * encoder.grid[1] + 1:
        return "has a position for the class token, unlike this model"
    act = vit.blocks[0].mlp.act
    if type(act) is not nn.GELU or act.approximate != "none":
        return f"has exact GELU, this model {type(act).__name__}"
    return None


def _expected(model: Model) -> set[str]:
    layers = ["patch_embed.proj"]
    layers += [f"blocks.{i}.{n}" for i in range(len(encoder_of(model).vit.blocks)) for n in _BLOCK]
    names = {"cls_token", "pos_embed"}
    if isinstance(model, Classifier):
        layers += ["fc_norm" if model.pool == "mean" else "norm", "head"]
    else:
        layers.append("norm")
    if isinstance(model, MAE):
        names |= {"mask_token", "decoder_pos_embed"}
        layers += ["decoder_embed", "decoder_norm", "decoder_pred"]
        depth = len(model.decoder.blocks)
        layers += [f"decoder_blocks.{i}.{n}" for i in range(depth) for n in _BLOCK]
    return names | {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def require_official(model: Model) -> None:
    """Refuse what the official format cannot express (UsageError)."""
    require_plain(model, "the official format")


def write_official(model: Model, out: Path) -> list[str]:
    """`{"model": tensors}` as the official code reads it; .safetensors without the wrapping.

    Returns how to build the model there, and what this format does not hold.
    """
    tensors = official_names(model)
    if out.suffix == ".safetensors":
        write_tensors(out, tensors.items())
    else:
        with out.open("xb") as file:
            torch.save({"model": {n: t.clone() for n, t in tensors.items()}}, file)
            file.flush()
            os.fsync(file.fileno())
    return [f"official code builds it with {_call(model)}", *_lost(model)]


def heads(model: Model) -> tuple[int, int | None]:
    """Heads of the encoder, and of the decoder where there is one: no foreign file tells them."""
    own = encoder_of(model).vit.blocks[0].attn.num_heads
    if not isinstance(model, MAE) or not len(model.decoder.blocks):
        return own, None
    block: Any = model.decoder.blocks[0]
    return own, block.attn.num_heads


def _call(model: Model) -> str:
    encoder = encoder_of(model)
    vit, (own, decoders) = encoder.vit, heads(model)
    words: dict[str, Any] = {
        "img_size": encoder.image_size[0],
        "patch_size": encoder.patch[0],
        "in_chans": encoder.in_chans,
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": own,
        "mlp_ratio": vit.blocks[0].mlp.fc1.out_features / vit.embed_dim,
    }
    if isinstance(model, MAE):
        words["decoder_embed_dim"] = model.decoder.pred.in_features
        words["decoder_depth"] = len(model.decoder.blocks)
        words["decoder_num_heads"] = decoders or 0
        words["norm_pix_loss"] = model.target == "norm_pixels"
    if isinstance(model, Classifier):
        words |= {"num_classes": len(model.classes), "global_pool": model.pool == "mean"}
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in words.items())


def _lost(model: Model) -> list[str]:
    """What a reader must be told, because this format has no place for it."""
    encoder, (own, decoders) = encoder_of(model), heads(model)
    told = []
    dim = encoder.vit.embed_dim
    if own != HEADS.get(dim, dim // 64) or decoders not in (None, 16):
        more = f" --decoder-heads {decoders}" if decoders else ""
        told.append(f"not in this format: heads. For openmae: --heads {own}{more}")
    mean, std = encoder.mean.flatten(), encoder.std.flatten()
    if not _close(mean, IMAGENET_MEAN) or not _close(std, IMAGENET_STD):
        numbers = "; ".join(" ".join(f"{v:.4g}" for v in t.tolist()) for t in (mean, std))
        told.append(f"not in this format: mean and std of the images, {numbers}")
    if isinstance(model, MAE) and model.target == "pixels":
        told.append(
            "not in this format: that it predicts pixels. openmae takes norm_pixels for granted"
            " unless the file's name holds visualize"
        )
    if isinstance(model, Classifier):
        several = ", and that several can be true" if model.multi_label else ""
        told.append(f"not in this format: the names of the classes{several}")
    return told


def _close(values: Tensor, published: tuple[float, ...]) -> bool:
    return len(values) == len(published) and torch.allclose(values, torch.tensor(published))
