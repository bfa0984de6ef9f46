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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openmae.errors import StorageError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
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
    config: dict[str, Any] = field(default_factory=dict)  # of a folder: config.json
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
    if path.name in _WHOLE and (path.parent / "config.json").is_file():
        return replace(_read_folder(path.parent, trust_source, (path.name,)), path=path)
    return _read_file(path, trust_source)


def _read_file(path: Path, trust_source: bool) -> Raw:
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
        if not asked and not _is_pickle(path):
            raise StorageError(
                f"{path} is no file of weights that is known here, such as .safetensors or .pth"
            ) from None
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
    for name, tensor in tensors.items():  # a stride of 0 makes any size of one number
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise StorageError(f"{path} cannot be loaded: {name} is larger than what is stored")
    return Raw(path, "torch", tensors, extra)


def _is_pickle(path: Path) -> bool:
    """Whether it begins as the files of torch do, a zip file or a pickle of a newer protocol."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _read_in_child(path: Path) -> Raw:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.safetensors"
        words = [sys.executable, "-I", "-c", _CHILD, str(path.resolve()), str(out)]
        try:
            ended = subprocess.run(
                words,
                env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # it can start none
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


def _read_folder(path: Path, trust_source: bool, names: Sequence[str] = _WHOLE) -> Raw:
    config = _read_json(path / "config.json")
    if (path / "preprocessor_config.json").is_file():
        config["preprocessor"] = _read_json(path / "preprocessor_config.json")
    for name in names:
        if (path / name).is_file():
            raw = _read_file(path / name, trust_source)
            return Raw(path, raw.container, raw.tensors, raw.extra, config, raw.metadata)
    for name in _INDEX:
        if (path / name).is_file():
            parts = _parts(path / name)
            tensors: dict[str, Tensor] = {}
            for part in parts:
                tensors |= _read_file(path / part, trust_source).tensors
            return Raw(path, f"{len(parts)} files", tensors, {}, config)
    raise StorageError(
        f"{path} has no checkpoint and no model.safetensors. Is it a run folder? A run saves its"
        " first checkpoint after some steps"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """A table of a JSON file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        raise ValueError(f"it holds a {type(found).__name__}, not a table")
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read: {_short(error)}") from None


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
    return printable(str(error))[:160] or "it is empty, or not whole"


def printable(text: str) -> str:
    """Words of a file on one line, without what would move the cursor of a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
