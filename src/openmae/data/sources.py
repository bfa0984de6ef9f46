"""Where images come from: the source that a user's words name, and its training and test part."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import cast

import numpy as np

from openmae.data.arrays import open_array
from openmae.data.decode import Header
from openmae.data.folder import FolderSource, empty, missing
from openmae.data.globs import WILD, open_glob
from openmae.data.hub import open_hub
from openmae.data.named import DOWNLOAD, open_named
from openmae.data.packed import open_packed
from openmae.data.parquet import open_parquet
from openmae.data.source import ArraySource, Sample, Source
from openmae.data.splits import IN_TEST, IN_TRAIN, TEST, TRAIN
from openmae.data.table import open_table
from openmae.data.tar import open_shards, open_tar
from openmae.data.values import Decoding, Pixels
from openmae.data.walk import walk
from openmae.data.zip import open_zip
from openmae.errors import DataError

SETS = (".csv", ".tsv", ".txt", ".parquet", ".npy", ".npz", ".tar", ".zip")
"""Suffixes of files that hold or name many images."""

ARCHIVES = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst", ".lzma", ".cab", ".ar")


class Cached(Source):
    """A source whose decoded images stay in memory; for data that are small once decoded."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, len(source), source.decoding)
        self.classes, self.table_labels = source.classes, source.labels
        self.table_weights = source.weights
        self._source = source
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            row = int(self.rows[index])  # what the source gives beside the image stays with it
            self._kept[index] = cast(Sample, {**self._source[row], "id": index})
        return self._kept[index]

    def row_path(self, row: int) -> str:
        """Of the source."""
        return self._source.path(row)

    def row_image(self, row: int) -> Pixels:
        """Of the source."""
        return self._source.raw(row)

    def row_line(self, row: int) -> str:
        """Of the source."""
        return self._source.row_line(int(self._source.rows[row]))

    def row_header(self, row: int) -> Header:
        """Of the source."""
        return self._source.header(row)


def digits() -> ArraySource:
    """scikit-learn's 1,797 real handwritten digits, 8x8 gray, in their published order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return ArraySource("digits", images, found.target, [str(d) for d in range(10)])


def _open_folder(data: str, decoding: Decoding) -> Source | None:
    root = Path(data).expanduser()
    if not root.is_dir():
        return None
    found = walk(root)
    if not found.files and found.others[".tar"]:
        return open_shards(data, decoding)
    if not found.files:
        raise DataError(empty(data, found.others, found.folders))
    return FolderSource(root, found.files, decoding)


OPENERS: tuple[Callable[[str, Decoding], Source | None], ...] = (
    open_packed,
    open_named,
    open_hub,
    open_tar,
    open_zip,
    open_glob,
    open_array,
    open_table,
    open_parquet,
    _open_folder,
)
"""Asked in turn for the source that a user's words name; the first that is not None is it."""


def open_source(data: str, decoding: Decoding | None = None, split: str = "train") -> Source:
    """The source that a user's words name: "digits", a folder, or what one of `OPENERS` knows.

    `split` is the part of it, where it says which rows are for training: "train", "test" or "all"
    (of the digits, training).

    Raises:
        DataError: no such folder, no images in it, or an archive.
    """
    decoding = decoding or Decoding()
    if data == "digits":
        return open_split(data, decoding)[split == "test"]
    for opener in OPENERS:
        found = opener(data, decoding)
        if found is not None:
            return part_of(found, split)
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(missing(root))
    if root.suffix.lower() in ARCHIVES:
        folder = root.with_name(root.name.removesuffix(root.suffix).removesuffix(".tar"))
        raise DataError(f"{data} is an archive. Unpack it, then give the folder: {folder}/")
    raise DataError(f"{data} is a file. Give the folder that holds the images: {root.parent}/")


def open_split(
    data: str, decoding: Decoding | None = None, fraction: float = 0.2, task: str = "this command"
) -> tuple[Source, Source]:
    """Training and test part: train/ and test/ (or val/) below the folder, or as the source itself
    says, or else a fixed split by hash of the path.

    Raises:
        DataError: fewer than two classes, or different ones in the two parts.
    """
    decoding = decoding or Decoding()
    if data == "digits":
        whole = digits().decoded(decoding)
        test = [i for i in range(len(whole)) if i % 5 == 0]
        return whole.subset([i for i in range(len(whole)) if i % 5]), whole.subset(test)
    root = Path(data).expanduser()
    parts = [
        next((root / n for n in names if (root / n).is_dir()), None) for names in (TRAIN, TEST)
    ]
    if parts[0] and parts[1]:
        first, second = (open_source(str(p), decoding) for p in parts)
        if first.classes != second.classes:
            odd = sorted(set(first.classes) ^ set(second.classes))[:3]
            raise DataError(
                f"{parts[0]} and {parts[1]} hold different class folders: {', '.join(odd)}"
            )
        return first, second
    every = open_source(data, decoding, split="all")
    if every.table_splits is None:
        require_classes(every, task)
        return hash_split(every, fraction)
    first, second = part_of(every, "train"), part_of(every, "test")
    for part in (first, second):
        require_classes(part, task)
    return first, second


def part_of(source: Source, split: str) -> Source:
    """The rows that a source itself says are for "train" or "test"; all if it does not say."""
    if source.table_splits is None or split == "all":
        return source
    code = IN_TEST if split == "test" else IN_TRAIN
    return source.subset(np.flatnonzero(source.table_splits[source.rows] == code))


def hash_split(source: Source, fraction: float) -> tuple[Source, Source]:
    """Split by hash of the path: the same file is always on the same side, whatever else is in the
    folder.
    """
    in_test = [_share(source.path(i)) < fraction for i in range(len(source))]
    first = source.subset([i for i, t in enumerate(in_test) if not t])
    second = source.subset([i for i, t in enumerate(in_test) if t])
    if not len(first) or not len(second):
        raise DataError(
            f"{source.name} has {len(source)} images: too few to hold out {fraction:g} of them"
        )
    return first, second


def require_classes(source: Source, task: str) -> None:
    """Raise DataError unless the source has at least two classes, and each image one of them."""
    folders = type(source) is FolderSource
    what = "class folder" if folders else "class"
    if len(source.classes) < 2:
        if source.classes:
            name = f"{source.name}/{source.classes[0]}" if folders else source.classes[0]
            found = f"Only one {what} ({name})"
        else:
            found = "No class folders" if folders else "No labels"
        fix = "one folder for each class, with its images" if folders else "a label for each image"
        raise DataError(f"{found} in {source.name}. {task} needs >= 2: {fix}")
    without = int((source.labels < 0).sum())
    if without:
        raise DataError(
            f"{without} of {len(source)} images in {source.name} have no label. {task} needs one"
            " for each"
        )


def short_name(data: str) -> str:
    """What to call results on the data of a user's words, fit for the name of a folder."""
    path = Path(data).expanduser()
    if os.path.lexists(path):
        return path.resolve().name or "data"
    parts = [part for part in data.split("/") if part]
    fixed = list(takewhile(lambda part: not WILD.search(part), parts))  # of a pattern
    name = fixed[-1].removesuffix(DOWNLOAD) if fixed else ""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


def _share(path: str) -> float:
    return (
        int.from_bytes(
            hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
        )
        / 2**64
    )
