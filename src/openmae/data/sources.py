"""Where images come from: random access, `len(source)` and `source[i] -> Sample`.

To add a source, write a class with this contract and its line in `open_source`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openmae.data.decode import Header, Image8
from openmae.data.folder import FolderSource, Sample, empty, missing, walk
from openmae.errors import DataError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")


class Source(Protocol):
    """Random access to samples; `channels` is what images are decoded to."""

    name: str

    @property
    def classes(self) -> list[str]: ...
    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def path(self, index: int) -> str: ...
    def header(self, index: int) -> Header: ...
    def listing(self) -> Iterator[str]: ...
    def subset(self, indices: Sequence[int]) -> Source: ...


class ArraySource:
    """Images in memory, (N, H, W, C) uint8."""

    def __init__(
        self,
        name: str,
        images: Image8,
        labels: np.ndarray[Any, Any],
        classes: list[str],
        ids: Sequence[int],
    ) -> None:
        self.name, self.images, self.classes = name, images, classes
        self.labels, self.ids = labels.astype(np.int64), list(ids)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            image=self.images[index], path=self.path(index), id=index, label=int(self.labels[index])
        )

    def path(self, index: int) -> str:
        return f"{self.name}/{self.ids[index]:04d}"

    def header(self, index: int) -> Header:
        return Header(*self.images.shape[1:])

    def listing(self) -> Iterator[str]:
        yield hashlib.blake2b(self.images.tobytes(), digest_size=16).hexdigest() + f"\t{len(self)}"

    def subset(self, indices: Sequence[int]) -> ArraySource:
        rows = list(indices)
        ids = [self.ids[i] for i in rows]
        return ArraySource(self.name, self.images[rows], self.labels[rows], self.classes, ids)


class Cached:
    """A source whose decoded images stay in memory; for data that are small once decoded."""

    def __init__(self, source: Source) -> None:
        self._source, self._kept = source, {}  # type: tuple[Source, dict[int, Sample]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a worker rebuilds it
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = self._source[index]
        return self._kept[index]


def digits() -> ArraySource:
    """scikit-learn's 1,797 real handwritten digits, 8x8 gray, in their published order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    return ArraySource(
        "digits", images, found.target, [str(d) for d in range(10)], range(len(images))
    )


def open_source(data: str, channels: int | None = None, split: str = "train") -> Source:
    """The source that a user's words name: "digits" (its training part) or a folder.

    Raises:
        DataError: no such folder, no images in it, or an archive.
    """
    if data == "digits":
        return open_split(data)[0 if split == "train" else 1]
    root = Path(data).expanduser()
    if not root.exists():
        raise DataError(missing(root))
    if not root.is_dir():
        if root.suffix.lower() in ARCHIVES:
            folder = root.with_name(root.name.removesuffix(root.suffix).removesuffix(".tar"))
            raise DataError(f"{data} is an archive. Unpack it, then give the folder: {folder}/")
        raise DataError(f"{data} is a file. Give the folder that holds the images: {root.parent}/")
    files, others, folders = walk(root)
    if not files:
        raise DataError(empty(data, others, folders))
    return FolderSource(root, files, channels)


def open_split(
    data: str, channels: int | None = None, fraction: float = 0.2, task: str = "this command"
) -> tuple[Source, Source]:
    """Training and test part: train/ and test/ (or val/) below the folder, or else a fixed split by
    hash of the path.

    Raises:
        DataError: fewer than two classes, or different ones in the two parts.
    """
    if data == "digits":
        whole = digits()
        test = [i for i in range(len(whole)) if i % 5 == 0]
        return whole.subset([i for i in range(len(whole)) if i % 5]), whole.subset(test)
    root = Path(data).expanduser()
    parts = [
        next((root / n for n in names if (root / n).is_dir()), None) for names in (TRAIN, TEST)
    ]
    if parts[0] and parts[1]:
        first, second = (open_source(str(p), channels) for p in parts)
        if first.classes != second.classes:
            odd = sorted(set(first.classes) ^ set(second.classes))[:3]
            raise DataError(
                f"{parts[0]} and {parts[1]} hold different class folders: {', '.join(odd)}"
            )
        return first, second
    whole_folder = open_source(data, channels)
    require_classes(whole_folder, task)
    return hash_split(whole_folder, fraction)


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
    """Raise DataError unless the source has at least two class folders."""
    if len(source.classes) < 2:
        found = (
            f"Only one class folder ({source.name}/{source.classes[0]})"
            if source.classes
            else "No class folders"
        )
        raise DataError(
            f"{found} in {source.name}. {task} needs >= 2: one folder for each class, with its"
            " images"
        )


def _share(path: str) -> float:
    return (
        int.from_bytes(
            hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
        )
        / 2**64
    )
