"""A whole method in one file: its tensors, and in the metadata the arguments that make it.

The epsilon of the layer norms is kept as well: files of Hugging Face bring their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from openmae.engine.tensorfile import sync_folder, write_tensors
from openmae.errors import OpenMAEError, StorageError
from openmae.methods import METHODS, name_of
from openmae.weights.foreign import UNUSABLE

KIND = "openmae-method"
_UNUSABLE = (SafetensorError, OSError, AssertionError, *UNUSABLE)


def save_method(path: Path, method: nn.Module) -> None:
    """Write a MAE or a Classifier; an earlier file is replaced at once or not at all."""
    now = {k: getattr(method, k) for k in ("target", "mask", "mask_ratio") if hasattr(method, k)}
    arguments: Any = method.arguments
    norms = sorted({m.eps for m in method.modules() if isinstance(m, nn.LayerNorm)})
    record = {"name": name_of(method), "arguments": {**arguments, **now}, "eps": norms}
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    tensors = method.state_dict().items()
    write_tensors(temporary, tensors, {"kind": KIND, "method": json.dumps(record)})
    os.replace(temporary, path)
    sync_folder(path.parent)


def is_method(path: Path) -> bool:
    """Whether a file is one that `save_method` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("kind") == KIND
    except _UNUSABLE:
        return False


def method_from(
    record: Mapping[str, Any], heads: int | None = None, decoder_heads: int | None = None
) -> nn.Module:
    """The method of a record {"name", "arguments"}, with random weights; heads can be replaced."""
    arguments: dict[str, Any] = dict(record["arguments"])
    if heads is not None:
        arguments["encoder_args"] = {**(arguments.get("encoder_args") or {}), "num_heads": heads}
    if decoder_heads is not None and "decoder_heads" in arguments:
        arguments["decoder_heads"] = decoder_heads
    return METHODS[record["name"]](**arguments)


def load_method(
    path: Path, heads: int | None = None, decoder_heads: int | None = None
) -> nn.Module:
    """Read a file of `save_method`.

    Raises:
        StorageError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["method"])
            method = method_from(record, heads, decoder_heads)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for layer in method.modules():
            if isinstance(layer, nn.LayerNorm) and len(record.get("eps", ())) == 1:
                layer.eps = record["eps"][0]
        with torch.no_grad():
            method.load_state_dict(tensors, strict=True)
    except (*_UNUSABLE, OpenMAEError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StorageError(f"{path} cannot be loaded: {reason}") from None
    return method
