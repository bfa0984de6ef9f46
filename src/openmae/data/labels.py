"""Labels from a table instead of class folders: columns path, label and, if there is one, split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from openmae.data.folder import FolderSource
from openmae.data.names import shown
from openmae.data.source import Source
from openmae.data.sources import hash_split, open_source, part_of
from openmae.data.splits import split_codes
from openmae.data.table import TableSource, read_rows
from openmae.data.values import Decoding
from openmae.errors import DataError

_SEVERAL = (";", "|")  # between the labels of an image


def open_labelled_split(
    data: str,
    labels: str,
    decoding: Decoding | None = None,
    fraction: float = 0.2,
    multi_label: bool = False,
) -> tuple[Source, Source]:
    """Training and test part: by the column `split` (train, and test or val), or else by hash of
    the path.

    Raises:
        DataError: the table does not fit the images.
    """
    whole, splits = _read(data, labels, decoding, multi_label)
    if not any(splits):
        return hash_split(whole, fraction)
    if whole.table_splits is None:
        raise DataError(f"{labels}: the column split needs both train and test")
    return part_of(whole, "train"), part_of(whole, "test")


def labelled(
    data: str, labels: str, decoding: Decoding | None = None, multi_label: bool = False
) -> TableSource:
    """All images that the table names, whatever its splits."""
    return _read(data, labels, decoding, multi_label)[0]


def _read(
    data: str, labels: str, decoding: Decoding | None, multi_label: bool
) -> tuple[TableSource, list[str]]:
    folder = open_source(data, split="all")
    if not isinstance(folder, FolderSource):
        raise DataError(f"--labels describes files: give their folder, not {data}")
    rows = read_rows(Path(labels).expanduser(), need=("label",))
    texts = [rows.classes[k] if rows.classes else str(k) for k in rows.labels or ()]
    lines = list(zip(rows.paths, texts, rows.splits or [""] * len(texts), strict=True))
    known, table_root = set(folder.files), Path(labels).expanduser().absolute().parent
    missing: list[str] = []
    found: dict[str, tuple[str, str]] = {}
    for path, label, split in lines:
        name = _below(path, folder.root, table_root, known)
        if name is None:
            missing.append(path)
        elif name in found and found[name] != (label, split):
            raise DataError(f"{labels}: {shown(path)} stands there twice with different labels")
        else:
            found[name] = (label, split)
    if missing:
        raise DataError(
            f"{labels}: {len(missing)} of {len(lines)} names not found"
            f" (first: {shown(missing[0])}). Paths are relative to {data} or to the table"
        )
    files = sorted(found)
    several = [_labels_of(found[f][0], multi_label) for f in files]
    names = sorted({t for parts in several for t in parts})
    if len(names) < 2:
        raise DataError(
            f"{labels}: only one class ({shown(names[0]) if names else 'none'}). Give >= 2"
        )
    number = {name: i for i, name in enumerate(names)}
    if multi_label:
        table: np.ndarray[Any, Any] = np.zeros((len(files), len(names)), dtype=np.float32)
        for row, parts in enumerate(several):
            table[row, [number[p] for p in parts]] = 1
    else:
        table = np.array([number[parts[0]] for parts in several], dtype=np.int64)
    splits = [found[f][1] for f in files]
    codes = split_codes(splits, labels)
    return TableSource(folder.root, files, names, table, codes, decoding), splits


def _below(path: str, root: Path, table_root: Path, known: set[str]) -> str | None:
    """The name of a file below the data folder, or None if it is not one of its images.

    As it is written first, so that a linked image keeps its own name; then with links followed,
    for a table that knows the folder by another name.
    """
    for plain in (os.path.abspath, os.path.realpath):
        start = plain(root) + os.sep
        for base in (root, table_root):
            try:
                whole = plain(base / path)
            except (OSError, ValueError):
                continue
            name = whole.removeprefix(start).replace(os.sep, "/")
            if whole.startswith(start) and name in known:
                return name
    return None


def _labels_of(text: str, several: bool) -> list[str]:
    if not several:
        return [text]
    for mark in _SEVERAL[1:]:
        text = text.replace(mark, _SEVERAL[0])
    return sorted({part.strip() for part in text.split(_SEVERAL[0]) if part.strip()})
