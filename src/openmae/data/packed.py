"""Packed images: few large memory-mapped files instead of many small ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import simplejpeg

from openmae.data.decode import Header, read_image
from openmae.data.names import Names
from openmae.data.packindex import (
    DTYPES,
    FILE,
    FORMAT,
    INDEX,
    RAW,
    TABLES,
    UNFINISHED,
    Index,
    shard_name,
)
from openmae.data.source import BytesSource
from openmae.data.splits import TEST, TRAIN
from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError


class PackedSource(BytesSource):
    """The images of a packed folder, in the order, with the paths, labels and splits that they had
    in the source they were packed from.
    """

    def __init__(self, root: Path, decoding: Decoding | None = None) -> None:
        self.index = Index(root)
        super().__init__(str(root), self.index.count, decoding)
        self.root, self.classes = root, self.index.classes
        tables = self.index.tables
        label, split = tables.get("label"), tables.get("split")
        self.table_labels = None if label is None else np.array(label)
        self.table_splits = None if split is None else np.array(split)

    def row_path(self, row: int) -> str:
        """As it was in the source."""
        return Names.of(self.index.tables["names"], self.index.tables["name_end"])[row]

    def row_file(self, row: int) -> bytes | None:
        """The file of a row; None where there is none, but only values."""
        return None if self.index.tables["kind"][row] == RAW else self.index.record(row)

    def row_name(self, row: int) -> str:
        """As it was in the source, unless packing made another file of it."""
        return self.row_path(row) if self.index.tables["kind"][row] == FILE else ""

    def row_bytes(self, row: int) -> bytes:
        """The file of a row, or the bytes of its values."""
        return self.index.record(row)

    def row_image(self, row: int) -> Pixels:
        """Decode the file of a row, or copy its values."""
        kind = self.index.tables["kind"][row]
        if kind == RAW:
            return self.index.array(row)
        data, gray = self.index.record(row), self.decoding.gray
        if kind == FILE:
            return read_image(data, gray)
        as_gray = self.index.tables["shape"][row, 2] == 1 if gray is None else gray
        try:
            return simplejpeg.decode_jpeg(
                data, colorspace="GRAY" if as_gray else "RGB", fastdct=False, fastupsample=False
            )
        except ValueError as error:
            raise DataError(f"{error}: {shard_name(self.index.place(row)[0])} is damaged") from None

    def row_line(self, row: int) -> str:
        """Path, size, hash and label, none of which needs the shard."""
        digest = self.index.tables["hash"][row].tobytes().hex()
        line = f"{self.row_path(row)}\t{self.index.place(row)[2]}\t{digest}"
        return line if self.table_labels is None else f"{line}\t{self.table_labels[row].tolist()}"

    def row_header(self, row: int) -> Header:
        """From the index."""
        t = self.index.tables
        height, width, channels = t["shape"][row].tolist()
        return Header(
            height, width, channels, DTYPES[t["dtype"][row]], self.index.formats[t["format"][row]]
        )


def is_packed(root: Path) -> bool:
    """Whether a folder is one of ours, complete or damaged."""
    if (root / TABLES).is_file() and (root / shard_name(0)).is_file():
        return True
    try:
        return FORMAT in (root / INDEX).read_bytes()[:200].decode("ascii", "replace")
    except OSError:
        return False


def open_packed(data: str, decoding: Decoding) -> PackedSource | None:
    """The source of a packed folder; None where a folder is something else.

    Raises:
        DataError: packing has not ended, or the folder holds several packed parts.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        return None
    if (root / UNFINISHED).is_file() and not (root / INDEX).exists() and not _others(root):
        raise DataError(
            f"{data} is not packed to the end. The same `openmae pack` command again continues it"
        )
    if is_packed(root):
        return PackedSource(root, decoding)
    parts = [n for n in (*TRAIN, *TEST) if is_packed(root / n)]
    if parts and not _others(root, parts):
        raise DataError(
            f"{data} holds packed parts: {' '.join(f'{n}/' for n in parts)}. Give one of them, such"
            f" as {root / parts[0]}"
        )
    return None


def _others(root: Path, ours: list[str] | None = None) -> list[str]:
    """What else is in a folder of ours."""
    own = re.compile(
        r"\..*|packing\.json|index\.safetensors|(shard|part)-\d+\.bin|bad_files\.jsonl"
    )
    names = [p.name for p in root.iterdir() if p.name not in (ours or ())]
    return [n for n in names if not own.fullmatch(n)]
