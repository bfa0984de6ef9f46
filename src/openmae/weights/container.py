"""Files of other projects become plain tensors and plain values, without running anything in them.

This is the only file that may name pickle: torch's own files are pickles, and are read with torch's
restricted reader, which knows tensors, containers and the few classes listed here, and refuses the
rest by name.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openmae.errors import StorageError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_HARMLESS: tuple[Any, ...] = (  # hold data, and do nothing when they are made
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    *(type(np.dtype(t)) for t in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
)
_CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)) if hasattr(resource, "RLIMIT_NPROC") else None
import torch
from safetensors.torch import save_file
found = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
while not any(isinstance(v, torch.Tensor) for v in found.values()):
    found = next(found[k] for k in ("model", "state_dict", "model_state_dict") if k in found)
save_file({k: v.contiguous().clone() for k, v in found.items() if torch.is_tensor(v)}, sys.argv[2])
"""


@dataclass(frozen=True)
class Raw:
    """What a file holds: tensors by their own names, other values as plain data, metadata."""

    path: Path
    container: str
    tensors: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)  # config.json beside it, if there is one
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file


def read_raw(path: Path, trust_source: bool = False) -> Raw:
    """Read a file, or a folder as Hugging Face and timm write them.

    `trust_source` lets a torch file with other classes run its own code in a child process without
    environment, with limits on time and processes; only tensors come back. It is no sandbox.

    Raises:
        StorageError: it cannot be read, or asks for something else than data.
    """
    if path.is_dir():
        return _read_folder(path, trust_source)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_torch(path, trust_source)


def _read_safetensors(path: Path) -> Raw:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise StorageError(f"{path} cannot be loaded: {_short(error)}") from None
    return Raw(path, "safetensors", tensors, metadata=metadata)


def _read_torch(path: Path, trust_source: bool) -> Raw:
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual versions, which the result tells better
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any of many ways
        asked = re.search(r"GLOBAL ([\w.]+)|`([\w.]+)` was not an allowed", str(error))
        if not asked and "Unsupported" not in str(error):
            raise StorageError(f"{path} cannot be loaded: {_short(error)}") from None
        if trust_source:
            return _read_in_child(path)
        what = (asked[1] or asked[2]) if asked else "something else than data"
        raise StorageError(
            f"{path} asks for {what}, which is code and not weights: refused, nothing of it was"
            " run.\nFrom people that you trust as you trust a program: --trust-source. Better: ask"
            " them for safetensors"
        ) from None
    if not isinstance(found, Mapping):
        raise StorageError(f"{path} holds a {type(found).__name__}, not named weights")
    tensors, extra = _unwrap(found)
    if not tensors:
        raise StorageError(f"{path} holds no tensors (it has: {', '.join(map(str, found))[:80]})")
    return Raw(path, "torch", tensors, extra)


def _read_in_child(path: Path) -> Raw:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.safetensors"
        words = [sys.executable, "-I", "-c", _CHILD, str(path.resolve()), str(out)]
        try:
            ended = subprocess.run(
                words,
                env={},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=300,
            )
        except subprocess.TimeoutExpired:
            raise StorageError(f"{path} was not read within five minutes") from None
        if ended.returncode or not out.exists():
            last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise StorageError(f"{path} cannot be loaded: {_short(last[0] if last else 'killed')}")
        raw = _read_safetensors(out)
        tensors = {name: tensor.clone() for name, tensor in raw.tensors.items()}
    return Raw(path, "torch, its own code run in a child process", tensors)


def _read_folder(path: Path, trust_source: bool) -> Raw:
    config: dict[str, Any] = {}
    try:
        if (path / "config.json").is_file():
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}/config.json cannot be read: {_short(error)}") from None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            raw = read_raw(path / name, trust_source)
            return Raw(path, raw.container, raw.tensors, raw.extra, config, raw.metadata)
    for name in _INDEX:
        if (path / name).is_file():
            parts = _parts(path / name)
            tensors: dict[str, Tensor] = {}
            for part in parts:
                tensors |= read_raw(path / part, trust_source).tensors
            return Raw(path, f"{len(parts)} files", tensors, {}, config)
    raise StorageError(
        f"{path} has no checkpoint and no model.safetensors. Is it a run folder? A run saves its"
        " first checkpoint after some steps"
    )


def _parts(index: Path) -> list[str]:
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({Path(str(name)).name for name in weights.values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StorageError(f"{index} cannot be read: {_short(error)}") from None


def _unwrap(found: Mapping[Any, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named tensors of a checkpoint, however deep they lie, and the plain values beside."""
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    extra: dict[str, Any] = {}
    for name, value in found.items():
        plain = vars(value) if isinstance(value, argparse.Namespace) else value
        if isinstance(value, argparse.Namespace) or isinstance(plain, str | int | float | bool):
            extra[str(name)] = plain
    if len(tensors) > 2:
        return tensors, extra
    for name in ("model", "state_dict", "model_state_dict", "module", "net", "model_ema"):
        inner = found.get(name)
        if isinstance(inner, Mapping):
            tensors, more = _unwrap(inner)
            if tensors:
                return tensors, more | extra
    return tensors, extra


def _short(error: object) -> str:
    return " ".join(str(error).split())[:160]
