"""A recognised checkpoint becomes a model of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import StorageError, UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_vit, create_arguments
from openmae.weights.container import printable
from openmae.weights.foreign import UNUSABLE, Architecture, Found

_NAMES = {
    (192, 12, 16): "vit_tiny_patch16_224",
    (384, 12, 16): "vit_small_patch16_224",
    (768, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}
"""Width, depth and patch of timm's own names."""

_DECODER = {"decoder_blocks.": "decoder.blocks.", "decoder_": "decoder.", "mask_": "decoder.mask_"}


def build(found: Found) -> MAE | Classifier | Encoder:
    """MAE where there is a decoder, Classifier where there is a head, else Encoder; every tensor of
    the file is used.

    Raises:
        StorageError: the tensors do not fit together.
    """
    arch = found.arch
    shared: dict[str, Any] = {
        "image_size": arch.image_size,
        "patch_size": arch.patch,
        "in_chans": arch.in_chans,
        "encoder_args": encoder_args(arch),
    }
    mean, std = pixels(found)
    shared |= {"mean": mean, "std": std}
    name = _NAMES.get((arch.embed_dim, arch.depth, arch.patch[0]), "vit_base_patch16_224")
    try:
        with torch.random.fork_rng(devices=[]):
            model = _model(found, name, shared)
        _fill(model, _own_names(found, model))
    except (UsageError, AssertionError, *UNUSABLE) as error:
        reason = printable(str(error))[:200]
        raise StorageError(f"{found.path} cannot be loaded: {reason}") from None
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = arch.eps
    return model.eval()


def _model(found: Found, name: str, shared: dict[str, Any]) -> MAE | Classifier | Encoder:
    arch = found.arch
    if arch.decoder_dim:
        sizes = (arch.decoder_dim, arch.decoder_depth, arch.decoder_heads)
        return MAE(
            name,
            **shared,
            decoder_dim=sizes[0],
            decoder_depth=sizes[1],
            decoder_heads=sizes[2],
            target=found.target or "norm_pixels",
            mask_ratio=0.75 if found.hints.mask_ratio is None else found.hints.mask_ratio,
        )
    if arch.num_classes:
        told = found.hints.classes
        numbered = tuple(str(i) for i in range(arch.num_classes))
        classes = told if len(told) == arch.num_classes else numbered
        several = found.hints.multi_label
        return Classifier(name, classes, **shared, pool=arch.pool, multi_label=several)
    sizes = shared["image_size"], shared["patch_size"], shared["in_chans"]
    create = create_arguments(name, *sizes, encoder_args=dict(shared["encoder_args"]))
    if "norm.weight" not in found.tensors:
        raise StorageError(f"{found.path} has no final norm and no head: it is not a whole encoder")
    return Encoder(build_vit(create), shared["mean"], shared["std"], create)


def pixels(found: Found) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel: as the files beside tell, else ImageNet's, else 0.5."""
    channels = found.arch.in_chans
    mean, std = found.hints.mean, found.hints.std
    if mean is not None and std is not None and len(mean) == len(std) == channels:
        return mean, std
    if channels == 3:
        return tuple(IMAGENET_MEAN), tuple(IMAGENET_STD)
    return (0.5,) * channels, (0.5,) * channels


def encoder_args(arch: Architecture) -> dict[str, Any]:
    """What timm is told beyond the name."""
    ratio = arch.mlp_hidden / arch.embed_dim
    sizes: dict[str, Any] = {
        "embed_dim": arch.embed_dim,
        "depth": arch.depth,
        "num_heads": arch.num_heads,
    }
    if ratio != 4:
        sizes["mlp_ratio"] = ratio
    if not arch.class_token:
        sizes |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return sizes


def _own_names(found: Found, model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, Encoder):
        return {f"vit.{n}": t for n, t in found.tensors.items() if not n.startswith("fc_norm.")}
    out = {}
    for name, tensor in found.tensors.items():
        start = next((s for s in _DECODER if name.startswith(s)), None)
        own = _DECODER[start] + name.removeprefix(start) if start else f"encoder.vit.{name}"
        out[own] = tensor
    return out


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = model.state_dict()
    extra = {n for n in own if n.endswith(("encoder.mean", "encoder.std")) or n in ("mean", "std")}
    if "decoder.pos_embed" not in tensors and "decoder.pos_embed" in own:
        extra.add("decoder.pos_embed")  # sin-cos, made anew
    odd = sorted((own.keys() - extra) ^ (tensors.keys() - extra))
    if odd:
        raise ValueError(f"{len(odd)} tensors are missing or too many, first {odd[0]}")
    model.load_state_dict({**{n: own[n] for n in extra}, **tensors})
