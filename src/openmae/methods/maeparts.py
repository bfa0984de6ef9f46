"""The parts of a MAE by name: its decoder and its mask, and which options go together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from openmae.errors import did_you_mean
from openmae.models.crossdecoder import CrossDecoder
from openmae.models.decoder import Decoder
from openmae.models.encoder import Encoder
from openmae.models.masking import MASKS, Mask, unit
from openmae.models.positions import GridTables
from openmae.models.tokendecoder import PointDecoder, TokenDecoder
from openmae.models.uniformity import summary, uniformity
from openmae.targets.features import Features

if TYPE_CHECKING:
    from openmae.methods.base import Randomness
    from openmae.methods.mae import MAE

AnyDecoder: TypeAlias = Decoder | CrossDecoder | TokenDecoder | PointDecoder

DECODERS = ("self", "cross", "linear", "mlp")


def decoder_of(
    encoder: Encoder,
    out_dim: int,
    kind: str,
    in_encoder: bool,
    fusion: bool,
    size: tuple[int, int, int],
) -> AnyDecoder:
    """The decoder of a name, for `out_dim` values a patch; `size` is its width, depth and heads.
    `in_encoder`: the encoder has seen mask tokens itself.

    Raises:
        ValueError: an unknown name, or options that do not go together.
    """
    wide, grid, prefix = encoder.vit.embed_dim, encoder.grid, encoder.num_prefix_tokens
    fuse = len(encoder.vit.blocks) * fusion
    if kind not in DECODERS:
        raise ValueError(f"decoder {kind!r}: should be self or cross, linear or mlp")
    if kind in ("linear", "mlp") and not in_encoder:
        raise ValueError(f"decoder {kind} needs mask_tokens='encoder': it reads one token a patch")
    if kind == "cross" and in_encoder:
        raise ValueError("decoder cross has its own mask tokens: mask_tokens must be 'decoder'")
    if fusion and in_encoder:
        raise ValueError("fusion needs mask_tokens='decoder'")
    if kind == "cross":
        return CrossDecoder(wide, grid, out_dim, *size, fuse)
    if kind in ("linear", "mlp"):
        return PointDecoder(wide, prefix, out_dim, size[0] if kind == "mlp" else 0)
    if in_encoder:
        return TokenDecoder(wide, grid, prefix, out_dim, *size)
    return Decoder(wide, grid, prefix, out_dim, *size, fuse)


def mask_of(mask: str | Mask, side: int) -> Mask:
    """The function of a mask's name, or your own; `side` of the units of "unit", in patches."""
    if not isinstance(mask, str):
        return mask
    return partial(unit, side=side) if mask == "unit" else MASKS[mask]


def fusion_of(decoder: nn.Module) -> nn.Module | None:
    """What makes one tensor of all blocks' outputs, if a decoder asks for that."""
    found: nn.Module | None = getattr(decoder, "fusion", None)
    return found


def tables_of(method: MAE, grids: list[tuple[int, int]]) -> tuple[GridTables, GridTables]:
    """The positions of further grids in encoder and decoder; one without positions does not use
    them.
    """
    encoder, patches = method.encoder, method.encoder.grid[0] * method.encoder.grid[1]
    own = encoder.vit.pos_embed
    theirs: Tensor = getattr(method.decoder, "pos_embed", own)
    ours = GridTables(grids, own.shape[2], encoder.num_prefix_rows)
    return ours, GridTables(grids, theirs.shape[2], theirs.shape[1] - patches)


def grids_of(method: MAE, decoder: str) -> list[tuple[int, int]]:
    """The grids of further sizes; ValueError if options, mask, sizes and patch do not fit."""
    (p, q), grids = method.encoder.patch, []
    if not 0 < method.predict <= 1 or method.masks < 1:
        raise ValueError(f"predict {method.predict} must be in (0, 1], masks {method.masks} >= 1")
    if method.predict < 1 and decoder != "cross":
        raise ValueError("values of predict below 1 need decoder='cross'")
    if method.sizes and isinstance(method.predicts, Features):
        raise ValueError("a teacher has one image size: no further sizes with target features")
    if method.uniformity < 0 or method.mask_unit < 1:
        raise ValueError("uniformity must be at least 0, and mask_unit at least 1")
    if method.mask == "grid" and (method.masks > 1 or method.mask_ratio_end is not None):
        raise ValueError("a grid mask is the same every time: no masks, no mask_ratio_end")
    for height, wide in (method.encoder.image_size, *method.sizes):
        if height % p or wide % q:
            raise ValueError(f"images of {height}x{wide} do not divide into patches of {p}x{q}")
        with torch.device("cpu"):  # does the mask fit the grid? Values count, also on "meta"
            grids.append((height // p, wide // q))
            for ratio in (method.mask_ratio, method.mask_ratio_end):
                method.ids(1, lambda _, shape: torch.zeros(shape), ratio=ratio, grid=grids[-1])
    return grids[1:]


def ratio_at(method: MAE, rand: Randomness | None, asked: float | None) -> float | None:
    """The share to hide that is asked for, or that of the step where it changes over the run."""
    if method.mask_ratio_end is None or asked is not None or not rand or not method.training:
        return asked
    return method.mask_ratio + (method.mask_ratio_end - method.mask_ratio) * rand.progress


def spread_out(method: MAE, out: dict[str, Tensor], latent: Tensor) -> dict[str, Tensor]:
    """With the uniformity term of tokens (B, N, D), or (blocks, B, N, D), in training;
    `sample_loss` stays the reconstruction's.
    """
    if not method.uniformity or not method.training:
        return out
    last, vit = latent if latent.dim() == 3 else latent[-1], method.encoder.vit
    spread = uniformity(summary(last, vit.num_prefix_tokens, vit.cls_token is not None))
    loss = out["loss"] + method.uniformity * spread
    return out | {"loss": loss, "uniformity": spread.detach()}


def unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    """What to tell of a name that is none."""
    near = did_you_mean(name, known)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{what} {name!r}: should be one of {', '.join(known)}.{hint}"
