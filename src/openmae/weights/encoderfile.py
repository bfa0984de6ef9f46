"""encoder.safetensors: timm's own keys, and metadata that hold the exact timm call.

>>> meta = safe_open("encoder.safetensors", "pt").metadata()                         # doctest:
+SKIP
>>> vit = timm.create_model(**json.loads(meta["timm"]))                              # doctest:
+SKIP
>>> vit.load_state_dict(load_file("encoder.safetensors"), strict=True)               # doctest:
+SKIP
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from openmae.engine.tensorfile import sync_folder, write_tensors
from openmae.errors import StorageError
from openmae.models.encoder import Encoder, build_vit
from openmae.weights.foreign import UNUSABLE

KIND = "openmae-encoder"
_UNUSABLE = (SafetensorError, OSError, AssertionError, *UNUSABLE)


def save_encoder(path: Path, encoder: Encoder, about: Mapping[str, str]) -> None:
    """Write an encoder; an earlier file of that name is replaced at once or not at all.

    `about` joins the metadata (such as weights: raw or ema, target, mask_ratio, step).
    """
    numbers = {"mean": encoder.mean.flatten().tolist(), "std": encoder.std.flatten().tolist()}
    metadata = {
        "kind": KIND,
        "timm": json.dumps(encoder.create),
        "heads": str(encoder.vit.blocks[0].attn.num_heads),
        **{name: json.dumps(values) for name, values in numbers.items()},
        **what_it_reads(encoder),
        **about,
    }
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    write_tensors(temporary, encoder.vit.state_dict().items(), metadata)
    os.replace(temporary, path)
    sync_folder(path.parent)


def formula(encoder: Encoder) -> str:
    """How the values x of a file become floating-point input, in words."""
    if encoder.value_range is None:
        return "(x / 255 - mean) / std"
    low, high = encoder.value_range
    above = f"(x - {low:g})" if low > 0 else f"(x + {-low:g})" if low < 0 else "x"
    return f"({above} / {high - low:g} - mean) / std"


def what_it_reads(encoder: Encoder) -> dict[str, str]:
    """Value range and bands (counted from 0) of the files that it reads, as JSON, where that is not
    all of an 8-bit image.
    """
    found: dict[str, str] = {}
    if encoder.value_range is not None:
        found["value_range"] = json.dumps(encoder.value_range)
    if encoder.bands:
        found["bands"] = json.dumps(encoder.bands)
    return found


def is_own(path: Path) -> bool:
    """Whether a file is an encoder that `save_encoder` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("kind") == KIND
    except _UNUSABLE:
        return False


def load_encoder(path: Path, heads: int | None = None) -> Encoder:
    """Read an encoder file.

    Raises:
        StorageError: it is damaged, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND:
                raise StorageError(
                    f"{path} is a safetensors file, but not an encoder written by openmae"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        create = json.loads(metadata["timm"])
        if heads is not None:
            create["num_heads"] = heads
        mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
        value_range = json.loads(metadata.get("value_range", "null"))
        bands = json.loads(metadata.get("bands", "[]"))
        encoder = Encoder(build_vit(create), mean, std, create, value_range, bands)
        with torch.no_grad():
            encoder.vit.load_state_dict(tensors, strict=True)
    except _UNUSABLE as error:
        raise StorageError(
            f"{path} cannot be loaded: {' '.join(str(error).split())[:160]}"
        ) from None
    encoder.vit.pos_embed.requires_grad_(False)
    return encoder
