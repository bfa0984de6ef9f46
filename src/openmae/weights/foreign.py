"""What a checkpoint of the MAE family is: told from its tensors, its configuration and its own
arguments, never from its file name alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from openmae.errors import StorageError, UsageError
from openmae.weights.container import Raw, printable, read_raw
from openmae.weights.hints import Hints, hints
from openmae.weights.names import clean, official

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
"""Heads of the published encoders by width; 64 numbers a head otherwise."""

_OTHERS = {  # what is known by one of its tensors, and cannot become a plain ViT
    r"pos_embed_spatial|pos_embed_window|blocks\.\d+\.proj\.": "a Hiera model",
    r"downsample_layers\.": "a ConvNeXt-V2 (FCMAE) model",
    r"patch_embedding\.patch_embeddings": "a MONAI masked autoencoder",
    r"\.relative_position_bias_table|\.gamma_1$": "a BEiT model, with relative positions",
    r"\.rel_pos_[hw]$": "a ViTDet model, with relative positions",
    r"encodec|quantizer\.": "a tokenizer",
}

UNUSABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What tensors of another shape than their names promise end in."""


@dataclass(frozen=True)
class Architecture:
    """Sizes that a file tells; decoder sizes are 0 without one, and num_classes without a head."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_hidden: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    in_chans: int
    class_token: bool
    num_classes: int
    pool: str
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    eps: float

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.grid[0] * self.patch[0], self.grid[1] * self.patch[1]


@dataclass(frozen=True)
class Found:
    """A recognised checkpoint: tensors by official names, and what is known of them."""

    path: Path
    kind: str
    container: str
    dialect: str
    tensors: dict[str, Tensor]
    arch: Architecture
    target: str | None
    target_reason: str
    notices: tuple[str, ...]
    extra: dict[str, Any]
    hints: Hints


def find(
    path: Path,
    heads: int | None = None,
    decoder_heads: int | None = None,
    trust_source: bool = False,
) -> Found:
    """Recognise a file, or a folder as Hugging Face and timm write them.

    Raises:
        StorageError: it cannot be read, or is no plain ViT.
        UsageError: a size must be told (`heads`).
    """
    raw = read_raw(path, trust_source)
    try:
        return _recognise(raw, heads, decoder_heads)
    except UNUSABLE as error:
        reason = printable(str(error))[:160]
        raise StorageError(
            f"{path} cannot be loaded: its tensors do not fit together ({reason})"
        ) from None


def _recognise(raw: Raw, heads: int | None, decoder_heads: int | None) -> Found:
    tensors, stripped = clean(raw.tensors)
    _require_plain(raw.path, tensors)
    spoken, named, dropped = official(tensors)
    named, notices = _folded_probe(named)
    if "patch_embed.proj.weight" not in named or "pos_embed" not in named:
        shown = printable(", ".join(sorted(raw.tensors)[:3]))[:160]
        raise StorageError(
            f"{raw.path} holds no vision transformer that is known here (first: {shown})"
        )
    if stripped:
        notices.append(f"prefixes {' '.join(stripped)} were taken off")
    if dropped:
        notices.append(f"not used: {printable(', '.join(dropped[:4]))[:160]}")
    told = hints(raw.config, raw.metadata)
    _require_known(raw, told)
    arch = _architecture(raw, told, named, heads, decoder_heads, notices)
    target, reason = _target(raw, told, named)
    return Found(
        raw.path, _kind(raw, named, spoken), raw.container, spoken, named, arch, target, reason,
        tuple(notices), raw.extra, told,
    )  # fmt: skip


def _require_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for pattern, what in _OTHERS.items():
        hit = next((name for name in tensors if re.search(pattern, name)), None)
        if hit:
            raise StorageError(
                f"{path} is {what} ({hit}): it cannot be read as a plain vision transformer"
            )
    proj = next((t for n, t in tensors.items() if n.endswith("patch_embed.proj.weight")), None)
    if proj is not None and proj.ndim == 5:
        raise StorageError(f"{path} is a model of videos or volumes (3-D patches): not known here")


def _require_known(raw: Raw, told: Hints) -> None:
    """Refuse what the tensors do not show and a plain ViT does not have."""
    if told.activation not in ("", "gelu"):
        raise StorageError(
            f"{raw.path} has the activation {printable(told.activation)[:40]} (config.json), a"
            " plain vision transformer has gelu: its outputs would be wrong"
        )
    if raw.config.get("qkv_bias") is False:
        raise StorageError(f"{raw.path} has no biases in its attention: not known here")


def _folded_probe(named: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The official linear-probe head, BatchNorm without affine and a linear layer, as one layer."""
    if "head.0.running_mean" not in named or "head.1.weight" not in named:
        return dict(named), []
    out = {n: t for n, t in named.items() if not n.startswith("head.")}
    scale = (named["head.0.running_var"] + 1e-6).rsqrt()
    weight = named["head.1.weight"] * scale
    out["head.weight"] = weight
    out["head.bias"] = named["head.1.bias"] - weight @ named["head.0.running_mean"]
    return out, ["the probe's BatchNorm was folded into its linear layer"]


def _kind(raw: Raw, named: Mapping[str, Tensor], spoken: str) -> str:
    if "decoder_pred.weight" in named:
        what = "masked autoencoder, encoder and decoder"
    elif "head.weight" in named:
        tuned = "fine-tuned classifier" if "fc_norm.weight" in named else "classifier"
        what = "linear probe" if "head.0.running_mean" in raw.tensors else tuned
    else:
        what = "encoder only"
    own = {"timm": "timm", "openmae": "openmae"}.get(raw.metadata.get("kind", "")[:7], "")
    if "architecture" in raw.config and spoken == "official":
        spoken = "timm"
    user = " (a training checkpoint)" if "epoch" in raw.extra or "args" in raw.extra else ""
    names = "official or timm" if spoken == "official" else own or spoken
    return f"{what}, {names} names{user}"


def _target(raw: Raw, told: Hints, named: Mapping[str, Tensor]) -> tuple[str | None, str]:
    """What the decoder predicts, and how that is known."""
    if "decoder_pred.weight" not in named:
        return None, "no decoder"
    args = raw.extra.get("args")
    if isinstance(args, dict) and "norm_pix_loss" in args:
        return ("norm_pixels" if args["norm_pix_loss"] else "pixels"), "args.norm_pix_loss"
    if told.norm_pixels is not None:
        return ("norm_pixels" if told.norm_pixels else "pixels"), "config.json"
    if "visualize" in raw.path.name:
        return "pixels", "the file's name: visualize files predict pixels"
    return "norm_pixels", "assumed: nothing in the file tells (visualize files predict pixels)"


def _count(named: Mapping[str, Tensor], part: str) -> int:
    """How many blocks there are; a number too high is no reason to build so many."""
    numbers = {int(m[1]) for n in named if (m := re.match(rf"{part}\.(\d{{1,6}})\.", n))}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"of {part}, {len(numbers)} are there, the last has number {max(numbers)}")
    return len(numbers)


def _architecture(
    raw: Raw,
    told: Hints,
    named: Mapping[str, Tensor],
    heads: int | None,
    decoder_heads: int | None,
    notices: list[str],
) -> Architecture:
    proj = named["patch_embed.proj.weight"]
    if proj.ndim != 4 or "blocks.0.mlp.fc1.weight" not in named or named["pos_embed"].ndim != 3:
        raise StorageError(f"{raw.path} is not a plain vision transformer (patch {proj.shape})")
    for name in ("blocks.0.mlp.fc1.weight", "decoder_embed.weight", "head.weight"):
        if name in named and named[name].ndim != 2:  # else its first number makes a giant
            raise ValueError(f"{name} has {named[name].ndim} dimensions")
    dim = proj.shape[0]
    known = heads or told.heads or HEADS.get(dim)
    if known is None:
        if dim % 64:
            raise UsageError(f"{raw.path} is {dim} wide and does not tell its heads: give --heads")
        known = dim // 64
        notices.append(f"{known} heads assumed, 64 numbers each: --heads says otherwise")
    if dim % known:
        raise UsageError(f"{known} heads do not divide a width of {dim}: give --heads")
    token = "cls_token" in named
    patch = (int(proj.shape[2]), int(proj.shape[3]))
    embed = named.get("decoder_embed.weight")
    classes = named["head.weight"].shape[0] if "head.weight" in named else 0
    mean_pool = "fc_norm.weight" in named or (classes and "norm.weight" not in named)
    return Architecture(
        embed_dim=dim,
        depth=_count(named, "blocks"),
        num_heads=known,
        mlp_hidden=named["blocks.0.mlp.fc1.weight"].shape[0],
        patch=patch,
        grid=_grid(raw, told, named["pos_embed"].shape[1] - token, patch),
        in_chans=proj.shape[1],
        class_token=token,
        num_classes=classes,
        pool="mean" if mean_pool or not token else "cls",
        decoder_dim=embed.shape[0] if embed is not None else 0,
        decoder_depth=_count(named, "decoder_blocks"),
        decoder_heads=decoder_heads or told.decoder_heads or 16,
        eps=1e-6 if told.eps is None else told.eps,
    )


def _grid(raw: Raw, told: Hints, patches: int, patch: tuple[int, int]) -> tuple[int, int]:
    if told.image_size is not None:
        grid = (told.image_size[0] // patch[0], told.image_size[1] // patch[1])
        if grid[0] * grid[1] == patches:
            return grid
    side = math.isqrt(max(patches, 0))
    if side * side != patches or not side:
        raise StorageError(
            f"{raw.path} has {patches} positions, which make no square: its image size is unknown"
        )
    return side, side
