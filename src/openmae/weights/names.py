"""Key names of the MAE family, each written as the official ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

_BLOCK = (  # inside a block, any dialect -> official
    (r"layernorm_before|(?<=\d\.)ln1", "norm1"),
    (r"layernorm_after|(?<=\d\.)ln2", "norm2"),
    (r"attention\.attention\.(?:query)|attention\.q_proj", "attn.q"),
    (r"attention\.attention\.(?:key)|attention\.k_proj", "attn.k"),
    (r"attention\.attention\.(?:value)|attention\.v_proj", "attn.v"),
    (r"attention\.output\.dense|attention\.o_proj", "attn.proj"),
    (r"intermediate\.dense|ffn\.layers\.0\.0", "mlp.fc1"),
    (r"(?<!attention\.)output\.dense|ffn\.layers\.1", "mlp.fc2"),
)
_DIALECTS: dict[str, tuple[tuple[str, str], ...]] = {
    "Hugging Face": (
        (r"^vit\.", ""),
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^embeddings\.position_embeddings", "pos_embed"),
        (r"^embeddings\.cls_token", "cls_token"),
        (r"^embeddings\.mask_token", "dropped.mask_token"),
        (r"^pooler\.", "dropped.pooler."),
        (r"^decoder\.(?:decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
        (r"^decoder\.", ""),
        (r"^(?:encoder\.layer|layers)\.", "blocks."),
        (r"^layernorm\.", "norm."),
        (r"^classifier\.", "head."),
        *_BLOCK,
    ),
    "mmpretrain": (
        (r"^backbone\.patch_embed\.projection", "patch_embed.proj"),
        (r"^backbone\.layers\.", "blocks."),
        (r"^backbone\.ln1\.", "norm."),
        (r"^backbone\.ln2\.", "fc_norm."),
        (r"^backbone\.", ""),
        (r"^neck\.ln1\.", "decoder_norm."),
        (r"^neck\.", ""),
        (r"^head\.fc\.", "head."),
        *_BLOCK,
    ),
    "lightly": ((r"^backbone\.vit\.", ""), (r"^decoder\.(decoder_|mask_token)", r"\1")),
    "openmae": (
        (r"^encoder\.vit\.", ""),
        (r"^encoder\.(mean|std)$", r"dropped.\1"),
        (r"^decoder\.mask_token", "mask_token"),
        (r"^decoder\.", "decoder_"),
    ),
    "detectron2": ((r"^backbone\.net\.", ""), (r"^backbone\.", "")),
    "official": (),
}
"""Dialect -> patterns, applied in order."""


def dialect(names: Iterable[str]) -> str:
    """Whose names these are, by their form alone."""
    keys = set(names)
    if any(re.search(r"embeddings\.(cls_token|patch_embeddings)", k) for k in keys):
        return "Hugging Face"
    for found, start in (
        ("openmae", "encoder.vit."),
        ("lightly", "backbone.vit."),
        ("mmpretrain", "backbone.layers."),
        ("detectron2", "backbone.net."),
    ):
        if any(k.startswith(start) for k in keys):
            return found
    return "official"


def clean(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Without the prefixes that wrappers leave (DDP, torch.compile, Lightning); and which."""
    stripped: list[str] = []
    out = tensors
    if any("_orig_mod." in name for name in out):
        out = {n.replace("_orig_mod.", ""): t for n, t in out.items()}
        stripped.append("_orig_mod.")
    for prefix in ("module.", "model.", "module."):
        if out and all(name.startswith(prefix) for name in out):
            out = {n.removeprefix(prefix): t for n, t in out.items()}
            stripped.append(prefix)
    return out, stripped


def official(tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """Tensors under the official names -> (dialect, tensors, names that were left out)."""
    spoken = dialect(tensors)
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, to in _DIALECTS[spoken]:
            name = re.sub(pattern, to, name)
        out[name] = tensor
    dropped = sorted(n.removeprefix("dropped.") for n in out if n.startswith("dropped."))
    kept = {n: t for n, t in out.items() if not n.startswith("dropped.")}
    return spoken, _fused(kept), dropped


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value that are apart become one, rows [q; k; v]."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        apart = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", name)
        if not apart:
            out[name] = tensor
        elif apart[2] == "q":
            three = [tensors.get(f"{apart[1]}.{p}.{apart[3]}") for p in "qkv"]
            present = [t for t in three if t is not None]
            out[f"{apart[1]}.qkv.{apart[3]}"] = torch.cat(present)
    return out
