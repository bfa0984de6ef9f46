"""Stream tensors into a safetensors file: one tensor in memory at a time, sha256 in the same pass,
then fsync.

The format is safetensors' own (8 bytes of header length, JSON, raw data), so any of its readers
loads the file. Its writer is not used because it holds every tensor twice, hides the errno of a
full disk and makes files of mode 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from openmae.engine.sharding import Wholes
from openmae.engine.textfile import write_text as write_text  # one place to look for both

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Write named tensors to a new file; returns its size in bytes and its sha256. Tensors that
    ranks share are made whole one after the other, for which all ranks must go through them.

    Raises:
        OSError: the disk's own error, such as ENOSPC.
    """
    named = tensors if isinstance(tensors, Wholes) else Wholes(tensors)
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in named.named:
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest, total = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in _chunks(head, named):
            file.write(chunk)
            digest.update(chunk)
            total += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return total, digest.hexdigest()


def _chunks(head: bytes, named: Wholes) -> Iterable[bytes | memoryview]:
    yield len(head).to_bytes(8, "little")
    yield head
    for _, tensor in named:
        plain = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        yield memoryview(plain.numpy().data)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make a rename inside the folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
