"""Write one shard of a packed folder, and small files: all of it is seen, or nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from openmae.data.packindex import ALIGN, DTYPES, shard_name
from openmae.data.records import Record

NUMBERS = {"offset": "<u8", "size": "<u8", "kind": "<u1", "dtype": "<u1", "format": "<u1"}
"""Types of the tables that hold one number an image."""


@dataclass
class Rows:
    """The part of the index that belongs to some images in a row of one shard."""

    table: dict[str, list[Any]] = field(default_factory=lambda: {n: [] for n in (*NUMBERS, "row")})
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    bad: list[dict[str, str]] = field(default_factory=list)

    def add(self, row: int, offset: int, record: Record, formats: list[str]) -> None:
        """One more image, at an offset of the shard."""
        if record.format not in formats:
            formats.append(record.format)
        values = (offset, len(record.data), record.kind, DTYPES.index(record.dtype))
        for name, value in zip(
            self.table, (*values, formats.index(record.format), row), strict=True
        ):
            self.table[name].append(value)
        self.shapes.append(record.shape)
        self.hashes.append(record.hash)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """As tables."""
        made = {n: np.array(self.table[n], dtype=NUMBERS.get(n, "<i8")) for n in self.table}
        made["shape"] = np.array(self.shapes, dtype="<u4").reshape(-1, 3)
        made["hash"] = np.frombuffer(b"".join(self.hashes), dtype=np.uint8).reshape(-1, 8)
        return made


class ShardWriter:
    """A shard that is being written; the file is made with its first image."""

    def __init__(self, folder: Path, number: int, limit: int) -> None:
        self.path, self.number, self.limit = folder / shard_name(number), number, limit
        self.temporary = folder / f".tmp-{shard_name(number)}"
        self.file: BinaryIO | None = None
        self.digest, self.size, self.rows = hashlib.sha256(), 0, Rows()

    def fits(self, record: Record) -> bool:
        """Whether another record still belongs here."""
        return not self.size or -(-self.size // ALIGN) * ALIGN + len(record.data) <= self.limit

    def add(self, row: int, record: Record, formats: list[str]) -> None:
        if self.file is None:
            self.file = self.temporary.open("wb")
        gap = -self.size % ALIGN
        self.rows.add(row, self.size + gap, record, formats)
        for data in (bytes(gap), record.data):
            self.file.write(data)
            self.digest.update(data)
            self.size += len(data)

    def close(self) -> dict[str, Any]:
        """Make the shard visible, whole."""
        assert self.file is not None
        _sync(self.file)
        self.file.close()
        os.replace(self.temporary, self.path)
        _sync_folder(self.path.parent)
        return {
            "bytes": self.size,
            "sha256": self.digest.hexdigest(),
            "count": len(self.rows.shapes),
        }

    def drop(self) -> None:
        """Remove what is not whole."""
        if self.file is not None:
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    """Write a file: a reader or a crash sees all of it or nothing."""
    temporary = path.with_name(f".tmp-{path.name}")
    with temporary.open("wb") as file:
        file.write(data)
        _sync(file)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
