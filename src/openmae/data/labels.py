"""Labels from a CSV instead of class folders: columns path, label and, if there is one, split."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmae.data.folder import FolderSource
from openmae.data.sources import TEST, TRAIN, Source, hash_split, open_source
from openmae.data.values import Decoding
from openmae.errors import DataError, did_you_mean

_SEVERAL = (";", "|")  # between the labels of an image


class LabelledSource(FolderSource):
    """Files of a folder with labels from a table: (N,) int64, or (N, K) float32 of several."""

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        table: np.ndarray[Any, Any],
        names: list[str],
        decoding: Decoding | None = None,
    ) -> None:
        super().__init__(root, files, decoding)
        self.classes, self.table_labels = names, table

    def row_line(self, row: int) -> str:
        """Path, size and label, so that another label is another data set."""
        assert self.table_labels is not None
        return f"{super().row_line(row)}\t{self.table_labels[row].tolist()}"


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
    odd = sorted({s for s in splits if s not in (*TRAIN, *TEST)})
    if odd:
        raise DataError(f"{labels}: split {odd[0]!r} should be train or test")
    train = whole.subset([i for i, s in enumerate(splits) if s in TRAIN])
    test = whole.subset([i for i, s in enumerate(splits) if s in TEST])
    if not len(train) or not len(test):
        raise DataError(f"{labels}: the column split needs both train and test")
    return train, test


def labelled(
    data: str, labels: str, decoding: Decoding | None = None, multi_label: bool = False
) -> LabelledSource:
    """All images that the table names, whatever its splits."""
    return _read(data, labels, decoding, multi_label)[0]


def _read(
    data: str, labels: str, decoding: Decoding | None, multi_label: bool
) -> tuple[LabelledSource, list[str]]:
    folder = open_source(data)
    if not isinstance(folder, FolderSource):
        raise DataError(f"--labels describes files: give their folder, not {data}")
    rows = _rows(Path(labels).expanduser())
    known, table_root = set(folder.files), Path(labels).expanduser().absolute().parent
    missing: list[str] = []
    found: dict[str, tuple[str, str]] = {}
    for path, label, split in rows:
        name = _below(path, folder.root, table_root, known)
        if name is None:
            missing.append(path)
        elif name in found and found[name] != (label, split):
            raise DataError(f"{labels}: {path} stands there twice with different labels")
        else:
            found[name] = (label, split)
    if missing:
        raise DataError(
            f"{labels}: {len(missing)} of {len(rows)} names not found (first: {missing[0]}). Paths"
            f" are relative to {data} or to the csv"
        )
    files = sorted(found)
    texts = [_labels_of(found[f][0], multi_label) for f in files]
    names = sorted({t for parts in texts for t in parts})
    if len(names) < 2:
        raise DataError(f"{labels}: only one class ({names[0] if names else 'none'}). Give >= 2")
    number = {name: i for i, name in enumerate(names)}
    if multi_label:
        table: np.ndarray[Any, Any] = np.zeros((len(files), len(names)), dtype=np.float32)
        for row, parts in enumerate(texts):
            table[row, [number[p] for p in parts]] = 1
    else:
        table = np.array([number[parts[0]] for parts in texts], dtype=np.int64)
    source = LabelledSource(folder.root, files, table, names, decoding)
    return source, [found[f][1] for f in files]


def _rows(path: Path) -> list[tuple[str, str, str]]:
    """(path, label, split) of each line."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            columns = {(c or "").strip().lower(): c for c in reader.fieldnames or []}
            for name in ("path", "label"):
                if name not in columns:
                    near = did_you_mean(name, columns)
                    hint = f" Rename {near[0]}?" if near else ""
                    raise DataError(
                        f"{path} has no column {name!r} in its first line (it has:"
                        f" {', '.join(columns) or 'nothing'}).{hint}"
                    )
            at = [columns["path"], columns["label"], columns.get("split", "")]
            rows = [tuple((row.get(c) or "").strip() for c in at) for row in reader]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}") from None
    empty = [number for number, row in enumerate(rows, 2) if not row[0] or not row[1]]
    if empty:
        raise DataError(
            f"{path}: line {empty[0]} has no path or no label ({len(empty)} such lines)"
        )
    if not rows:
        raise DataError(f"{path} has no lines below its first")
    return [(a, b, c.lower()) for a, b, c in rows]


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
